// The response under edit: a plain text area, so that every input method and screen reader works in
// it, with undo that outlives restoring and drafts.

import { el } from "./dom.js";
import { History } from "./history.js";
import { normal, withLineEnds } from "./line_ends.js";

export class Editor {
  constructor(original, text, changed) {
    this.original = original;
    this.changed = changed;
    this.area = el("textarea", {
      id: "editor", class: "editor", dir: "auto", spellcheck: "false", autocomplete: "off", autocapitalize: "off",
      "aria-label": "Response, to be corrected",
    });
    this.area.value = text;
    // A text area knows no \r: what it shows is compared with what it showed first, not with the
    // response, and untouched texts are handed in as they came.
    this.shownOriginal = normal(original);
    this.history = new History(this.area.value);
    this.area.addEventListener("input", () => this.#noted());
    this.area.addEventListener("beforeinput", (event) => {
      if (event.inputType === "historyUndo") this.#step(event, "undo");
      if (event.inputType === "historyRedo") this.#step(event, "redo");
    });
  }

  get shown() {
    return this.history.text;
  }

  get isChanged() {
    return this.shown !== this.shownOriginal;
  }

  /** The text to hand in, with the line ends of the response where nobody touched them. */
  get text() {
    return this.isChanged ? withLineEnds(this.original, this.shown) : this.original;
  }

  #noted() {
    this.history.note(this.area.value);
    this.changed();
  }

  #step(event, which) {
    event?.preventDefault();
    const edit = this.history[which]();
    if (!edit) return;
    this.area.setRangeText(edit.text, edit.start, edit.end, "end");
    this.area.focus();
    this.changed();
  }

  undo() {
    this.#step(null, "undo");
  }

  redo() {
    this.#step(null, "redo");
  }

  /** Puts another text in, as one step that can be undone. */
  take(text) {
    const shown = normal(text);
    this.history.note(shown, Date.now(), true);
    this.area.value = shown;
    this.changed();
  }

  /** Moves the caret to a place and shows it. */
  goTo(at) {
    this.area.focus();
    this.area.setSelectionRange(at, at);
  }
}
