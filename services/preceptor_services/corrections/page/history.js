// Undo and redo of a text that survive what the browser's own forget: restoring, taking a draft.

const PAUSE_MS = 700;
const MAX_STEPS = 2_000;

export class History {
  constructor(text) {
    this.text = text;
    this.done = [];
    this.undone = [];
    this.last = 0;
  }

  /** Notes that the text is now `text`; keys typed without a pause are one step. */
  note(text, at = Date.now(), isOneStep = false) {
    if (text === this.text) return;
    const step = change(this.text, text);
    const before = this.done.at(-1);
    const goesOn = !isOneStep && before && at - this.last < PAUSE_MS && !before.isClosed &&
      step.start === before.start + before.added.length && !step.removed && !step.added.includes("\n");
    if (goesOn) before.added += step.added;
    else this.done.push({ ...step, isClosed: isOneStep });
    if (this.done.length > MAX_STEPS) this.done.shift();
    this.undone = [];
    this.last = at;
    this.text = text;
  }

  /** The replacement that undoes the last step, as `{start, end, text}`; null where there is none. */
  undo() {
    const step = this.done.pop();
    if (!step) return null;
    this.undone.push(step);
    return this.#apply(step.start, step.added, step.removed);
  }

  redo() {
    const step = this.undone.pop();
    if (!step) return null;
    this.done.push({ ...step, isClosed: true });
    return this.#apply(step.start, step.removed, step.added);
  }

  #apply(start, from, to) {
    this.text = this.text.slice(0, start) + to + this.text.slice(start + from.length);
    this.last = 0;
    return { start, end: start + from.length, text: to };
  }
}

/** The one stretch in which two texts differ. */
function change(before, after) {
  const limit = Math.min(before.length, after.length);
  let start = 0;
  while (start < limit && before.charCodeAt(start) === after.charCodeAt(start)) start += 1;
  let tail = 0;
  while (tail < limit - start && before.charCodeAt(before.length - 1 - tail) === after.charCodeAt(after.length - 1 - tail)) tail += 1;
  return { start, removed: before.slice(start, before.length - tail), added: after.slice(start, after.length - tail) };
}
