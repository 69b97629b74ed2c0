// Draws differences: deleted struck through, inserted underlined, long equal stretches folded.

import { diff } from "./diff.js";
import { el, plural } from "./dom.js";

const EDGE = 320;
const FOLD_FROM = 3 * EDGE;

/** @returns {{node, count}} the drawn difference and how many places differ */
export function drawChanges(before, after) {
  const runs = diff(before, after);
  const node = el("div", { class: "text changes", dir: "auto" });
  let count = 0;
  let isInChange = false;
  runs.forEach((run, at) => {
    if (run.kind === "same") {
      isInChange = false;
      node.append(...drawSame(run.text, at === 0, at === runs.length - 1));
      return;
    }
    if (!isInChange) count += 1;
    const first = isInChange ? {} : { "data-change": count };
    isInChange = true;
    node.append(el(run.kind, first, visible(run.text)));
  });
  return { node, count, runs };
}

function drawSame(text, isFirst, isLast) {
  if (text.length <= FOLD_FROM) return [text];
  const head = isFirst ? "" : text.slice(0, EDGE);
  const tail = isLast ? "" : text.slice(-EDGE);
  const hidden = text.length - head.length - tail.length;
  const fold = el("span", { class: "fold" }, `${plural(hidden, "character")} unchanged`);
  return [head, fold, tail].filter(Boolean);
}

/** A changed newline alone would be invisible. */
const visible = (text) => (/^\s+$/.test(text) ? text.replaceAll("\n", "↵\n").replaceAll(" ", "·") : text);

/** `+12 −4` in characters. */
export function size(runs) {
  const of = (kind) => runs.reduce((sum, run) => sum + (run.kind === kind ? run.text.length : 0), 0);
  return { added: of("ins"), removed: of("del") };
}
