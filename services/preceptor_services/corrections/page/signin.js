// Signing in with one's key.

import { connect } from "./api.js";
import { el, kbd, replace } from "./dom.js";

/** Shows the form; calls `enter(key, me)` with a key that opens the queue. */
export function drawSignIn(main, why, enter) {
  const input = el("input", { id: "key", type: "password", autocomplete: "current-password", spellcheck: "false", autofocus: true, required: true, "aria-describedby": "key-hint" });
  const error = el("p", { class: "failed", role: "alert" }, why ?? "");
  const button = el("button", { type: "submit", class: "primary" }, "Sign in ", kbd("↵"));
  const form = el(
    "form",
    { class: "signin" },
    el("p", { class: "mark", "aria-hidden": "true" }, "✎"),
    el("h1", {}, "Corrections"),
    el("p", { class: "lead" }, "Put right what a model got wrong. Your edits become what it learns next."),
    el("label", { for: "key", class: "label" }, "Your key"),
    input,
    el("p", { id: "key-hint", class: "hint" }, "Whoever runs this deployment gave it to you. It stays in this tab and is forgotten when you close it."),
    error,
    button,
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const key = input.value.trim();
    if (!key) return input.focus();
    if (!/^[\x21-\x7e]+$/.test(key)) return refuse("A key has no spaces and no special letters. Copy it again.");
    button.disabled = true;
    error.textContent = "";
    try {
      enter(key, await connect(key, () => {}).get("me"));
    } catch (problem) {
      refuse(problem.status === 401 ? "Nobody has this key. Was it replaced or taken back?" : problem.message);
    }
    button.disabled = false;
  });
  const refuse = (text) => {
    error.textContent = text;
    input.select();
  };
  replace(main, form);
  input.focus();
}
