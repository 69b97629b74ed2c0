// Questions that the page asks in a dialog of the browser's own, which keeps the focus and Escape.

import { el, kbd } from "./dom.js";

/** Shows a dialog with `build(close)` in it; resolves with what `close` was given, or null. */
export function ask(title, build, props = {}) {
  return new Promise((resolve) => {
    const before = document.activeElement;
    let answer = null;
    const close = (value) => {
      answer = value;
      node.close();
    };
    const node = el(
      "dialog",
      { ...props, "aria-labelledby": "dialog-title" },
      el("h2", { id: "dialog-title" }, title),
      ...build(close),
    );
    node.addEventListener("close", () => {
      node.remove();
      if (before?.isConnected) before.focus();
      resolve(answer);
    });
    document.body.append(node);
    node.showModal();
  });
}

/** A reason in words, with some at hand; null where the person thought better of it. */
export function askReason(title, hint, suggestions, action) {
  return ask(title, (close) => {
    const input = el("textarea", { id: "reason", rows: "3", maxlength: "2000", dir: "auto", required: true, autofocus: true });
    const send = () => input.value.trim() ? close(input.value.trim()) : input.focus();
    input.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        event.stopPropagation();
        send();
      }
    });
    return [
      el("p", { class: "hint" }, hint),
      el("div", { class: "chips" }, suggestions.map((text) =>
        el("button", { type: "button", class: "chip", onclick: () => { input.value = text; input.focus(); } }, text))),
      el("label", { for: "reason", class: "label" }, "Reason"),
      input,
      el("div", { class: "row end" },
        el("button", { type: "button", class: "plain", onclick: () => close(null) }, "Cancel ", kbd("Esc")),
        el("button", { type: "button", class: "primary", onclick: send }, action, " ", kbd("↵"))),
    ];
  });
}

/** Yes or no; the harmless answer has the focus. */
export function confirm(title, text, action) {
  return ask(title, (close) => [
    el("p", {}, text),
    el("div", { class: "row end" },
      el("button", { type: "button", class: "plain", autofocus: true, onclick: () => close(false) }, "Cancel ", kbd("Esc")),
      el("button", { type: "button", class: "primary", onclick: () => close(true) }, action)),
  ]);
}
