// What a person has chosen: keys and theme, kept on the server; the theme here too, for the sign-in.

import { el, kbd } from "./dom.js";
import { ask } from "./dialog.js";
import { COMMANDS, Keymap, nameOf, spoken } from "./keys.js";
import { note } from "./notes.js";

const THEMES = ["auto", "light", "dark"];

export class Settings {
  constructor(api, { person, settings: kept }) {
    this.api = api;
    this.kept = kept;
    this.isReviewer = person.role !== "annotator";
    this.keymap = new Keymap(kept.keys);
    if (THEMES.includes(kept.theme)) applyTheme(kept.theme);
  }

  async nextTheme() {
    const now = THEMES[(THEMES.indexOf(currentTheme()) + 1) % THEMES.length];
    applyTheme(now);
    note({ auto: "Colours follow your system.", light: "Light.", dark: "Dark." }[now]);
    await this.#keep({ theme: now });
  }

  async #keep(changed) {
    this.kept = { ...this.kept, ...changed };
    try {
      await this.api.put("me/settings", { settings: this.kept });
    } catch (error) {
      note(`Your settings were not kept: ${error.message}`, "bad");
    }
  }

  /** The dialog that shows all keys and changes them. */
  async showKeys() {
    await ask("Keys", (close) => {
      const table = el("div", { class: "keys" });
      const draw = () => table.replaceChildren(...this.#rows(draw));
      draw();
      return [
        el("div", { class: "row dialoghead" },
          el("p", { class: "hint" }, "Single keys act while you are not typing. To change one, press it here, then the key that you prefer."),
          el("button", { type: "button", class: "plain", onclick: () => { this.keymap.changed = {}; this.#keep({ keys: {} }); draw(); } }, "Set all back"),
          el("button", { type: "button", class: "primary", autofocus: true, onclick: () => close(null) }, "Done ", kbd("Esc"))),
        table,
      ];
    }, { class: "wide" });
    document.dispatchEvent(new Event("keyschanged"));
  }

  #rows(draw) {
    const mine = Object.entries(COMMANDS).filter(([id]) => this.isReviewer || !/review/.test(id));
    const areas = Map.groupBy(mine, ([, [where]]) => where);
    return [...areas].map(([where, commands]) =>
      el("section", {}, el("h3", { class: "label" }, where), el("ul", {}, commands.map(([id, [, what]]) => this.#row(id, what, draw)))));
  }

  #row(id, what, draw) {
    const button = el("button", { type: "button", class: "keycap", "data-command": id, "aria-label": `${what}: ${spoken(this.keymap.key(id))}. Change` }, spoken(this.keymap.key(id)));
    button.addEventListener("click", () => this.#listen(button, id, draw));
    return el("li", {}, el("span", {}, what), button);
  }

  #listen(button, id, draw) {
    button.textContent = "press a key";
    button.classList.add("listening");
    const listener = (event) => {
      const key = nameOf(event);
      if (key === null || event.key === "Tab") return;
      event.preventDefault();
      event.stopPropagation();
      stop();
      if (event.key !== "Escape") this.#change(id, key);
      draw();
      document.querySelector(`[data-command="${id}"]`)?.focus();
    };
    const stop = () => {
      button.removeEventListener("keydown", listener);
      button.removeEventListener("blur", undone);
    };
    const undone = () => { stop(); draw(); };
    button.addEventListener("keydown", listener);
    button.addEventListener("blur", undone);
  }

  #change(id, key) {
    const clash = this.keymap.clash(id, key);
    if (clash) return note(`${spoken(key)} already means “${COMMANDS[clash][1]}”. Change that one first.`, "bad");
    this.keymap.set(id, key);
    this.#keep({ keys: this.keymap.changed });
  }
}

export function currentTheme() {
  return document.documentElement.dataset.theme ?? "auto";
}

export function applyTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem("theme", theme);
  } catch {
    // Then the sign-in page follows the system.
  }
}

export function rememberedTheme() {
  try {
    const theme = localStorage.getItem("theme");
    if (THEMES.includes(theme)) applyTheme(theme);
  } catch {
    // As above.
  }
}
