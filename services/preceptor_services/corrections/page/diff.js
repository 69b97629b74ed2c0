// What changed between two texts, in words: jsdiff finds the differences, with equal ends cut off
// first, and lines before words where the texts are long.

import Diff from "./jsdiff.js";

const MAX_DISTANCE = 600;
const LONG_CHARS = 8_000;
const WORD = /\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu;

/** Runs of `{kind: "same" | "del" | "ins", text}` that spell `before` without "ins", `after` without "del". */
export function diff(before, after) {
  if (before === after) return before ? [{ kind: "same", text: before }] : [];
  const head = commonHead(before, after);
  const tail = commonTail(before, after, head);
  const middle = differ(before.slice(head, before.length - tail), after.slice(head, after.length - tail));
  return joined(bridged([
    { kind: "same", text: before.slice(0, head) },
    ...middle,
    { kind: "same", text: tail ? before.slice(-tail) : "" },
  ]));
}

/** The same line by line. */
export function lineDiff(before, after) {
  const [a, b] = [lines(before), lines(after)];
  const limit = Math.min(a.length, b.length);
  let head = 0;
  while (head < limit && a[head] === b[head]) head += 1;
  let tail = 0;
  while (tail < limit - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail += 1;
  return joined([
    { kind: "same", text: a.slice(0, head).join("") },
    ...runs(a.slice(head, a.length - tail), b.slice(head, b.length - tail)),
    { kind: "same", text: a.slice(a.length - tail).join("") },
  ]);
}

/** A space that two changed words happen to share is no reason to read them as two changes. */
function bridged(runs) {
  const isChange = (run) => run !== undefined && run.kind !== "same";
  return runs.flatMap((run, at) =>
    run.kind === "same" && /^[^\S\n]{1,2}$/.test(run.text) && isChange(runs[at - 1]) && isChange(runs[at + 1])
      ? [{ kind: "del", text: run.text }, { kind: "ins", text: run.text }]
      : [run]);
}

function differ(before, after) {
  if (!before || !after) return [{ kind: "del", text: before }, { kind: "ins", text: after }];
  if (before.length + after.length < LONG_CHARS) return runs(words(before), words(after));
  return runs(lines(before), lines(after)).length > 2 ? byLinesThenWords(before, after) : wordsIfFew(before, after);
}

function byLinesThenWords(before, after) {
  const out = [];
  let del = "";
  let ins = "";
  const flush = () => {
    if (del && ins && del.length + ins.length < LONG_CHARS) out.push(...runs(words(del), words(ins)));
    else if (del && ins) out.push(...wordsIfFew(del, ins));
    else out.push({ kind: "del", text: del }, { kind: "ins", text: ins });
    del = ins = "";
  };
  for (const run of runs(lines(before), lines(after))) {
    if (run.kind === "del") del += run.text;
    else if (run.kind === "ins") ins += run.text;
    else {
      flush();
      out.push(run);
    }
  }
  flush();
  return out;
}

const wordsIfFew = (before, after) => runs(words(before), words(after));
const words = (text) => text.match(WORD) ?? [];
const lines = (text) => text.match(/[^\n]*\n|[^\n]+$/g) ?? [];

/** Equal characters at the start, back to where a word begins in both. */
function commonHead(a, b) {
  const limit = Math.min(a.length, b.length);
  let n = 0;
  while (n < limit && a.charCodeAt(n) === b.charCodeAt(n)) n += 1;
  while (n > 0 && (inWord(a, n) || inWord(b, n))) n -= 1;
  return n;
}

function commonTail(a, b, head) {
  const limit = Math.min(a.length, b.length) - head;
  let n = 0;
  while (n < limit && a.charCodeAt(a.length - 1 - n) === b.charCodeAt(b.length - 1 - n)) n += 1;
  while (n > 0 && (inWord(a, a.length - n) || inWord(b, b.length - n))) n -= 1;
  return n;
}

const isWord = (unit) => unit === 95 || (unit > 47 && unit < 58) || (unit > 64 && unit < 91) || (unit > 96 && unit < 123) || unit > 127;
const inWord = (text, at) => at > 0 && at < text.length && isWord(text.charCodeAt(at - 1)) && isWord(text.charCodeAt(at));

/** Runs from one list of pieces to another; beyond MAX_DISTANCE, all of one for all of the other. */
function runs(a, b) {
  const changes = pieceDiff.diff(a, b, { maxEditLength: MAX_DISTANCE });
  if (changes === undefined) return [{ kind: "del", text: a.join("") }, { kind: "ins", text: b.join("") }];
  return joined(changes.map(({ removed, added, value }) => ({ kind: removed ? "del" : added ? "ins" : "same", text: value })));
}

class PieceDiff extends Diff {
  tokenize(pieces) {
    return pieces;
  }
}

const pieceDiff = new PieceDiff();

/** Neighbours of one kind made one, deletions before insertions. */
function joined(steps) {
  const out = [];
  let del = "";
  let ins = "";
  const flush = () => {
    if (del) out.push({ kind: "del", text: del });
    if (ins) out.push({ kind: "ins", text: ins });
    del = ins = "";
  };
  for (const { kind, text } of steps) {
    if (!text) continue;
    if (kind === "del") del += text;
    else if (kind === "ins") ins += text;
    else if (out.at(-1)?.kind === "same" && !del && !ins) out.at(-1).text += text;
    else {
      flush();
      out.push({ kind, text });
    }
  }
  flush();
  return out;
}
