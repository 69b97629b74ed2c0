// A text area shows every line end as \n. What nobody touched is handed in with the ends it came with.

import { diff, lineDiff } from "./diff.js";

const END = /\r\n?|\n/g;

/** The text as a text area shows it. */
export const normal = (text) => text.replace(END, "\n");

/** `shown` with the line ends of `original`; a new line ends as the one before it does. */
export function withLineEnds(original, shown) {
  if (!original.includes("\r")) return shown;
  const before = normal(original);
  const runs = lineDiff(before, shown);
  const writer = new Writer(original.match(END));
  if (isLineByLine(before, shown, runs)) writer.change(before, shown);
  else write(runs, writer, (del, ins) => write(diff(del, ins), writer, null));
  return writer.text;
}

/** Whether the texts read line by line have as many equal ones as the runs: then no line moved. */
function isLineByLine(before, shown, runs) {
  const [a, b] = [before.split("\n"), shown.split("\n")];
  const equal = a.filter((line, n) => line === b[n]).length;
  const same = runs.filter((run) => run.kind === "same").reduce((sum, run) => sum + count(run.text), 0);
  return a.length === b.length && equal >= same;
}

/** Runs to text; where one change takes and gives unequal numbers of lines, `closer` looks at it. */
function write(runs, writer, closer) {
  runs.forEach((run, n) => {
    const before = runs[n - 1];
    if (run.kind === "same") writer.keep(run.text);
    else if (run.kind === "ins" && before?.kind === "del") {
      if (closer && count(before.text) !== count(run.text)) closer(before.text, run.text);
      else writer.change(before.text, run.text);
    } else if (run.kind === "ins") writer.change("", run.text);
    else if (runs[n + 1]?.kind !== "ins") writer.change(run.text, "");
  });
}

class Writer {
  constructor(ends) {
    this.ends = ends;
    this.at = 0;
    this.last = ends[0];
    this.text = "";
  }

  keep(text) {
    this.text += text.replaceAll("\n", () => (this.last = this.ends[this.at++]));
  }

  /** The ends of what went are those of the last lines of what came. */
  change(gone, come) {
    const taken = this.ends.slice(this.at, this.at + count(gone));
    this.at += taken.length;
    let left = count(come);
    this.text += come.replaceAll("\n", () => {
      const end = taken[taken.length - left] ?? this.last;
      left -= 1;
      return (this.last = end);
    });
  }
}

const count = (text) => text.split("\n").length - 1;
