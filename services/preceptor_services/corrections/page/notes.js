// Short notes at the edge of the page, read out by screen readers.

import { el } from "./dom.js";

const SHOWN_MS = 5_000;

export function note(text, tone = "plain") {
  const area = document.getElementById("notes");
  const node = el("p", { class: `note ${tone}` }, text);
  area.append(node);
  while (area.children.length > 3) area.firstChild.remove();
  // What went wrong stays until something else is said or it is closed.
  if (tone !== "bad") setTimeout(() => node.remove(), SHOWN_MS);
  else node.append(el("button", { type: "button", class: "plain", onclick: () => node.remove() }, "Close"));
}

export const clearNotes = () => document.querySelectorAll(".note.bad").forEach((node) => node.remove());
