// The response token by token: how far the experts lie from the student as colour, and at the
// chosen token what each of them would have said.

import { segment } from "./api.js";
import { el, plural, replace } from "./dom.js";

const PAGE = 1_000;
const STRONG = 0.5;

export class Tokens {
  constructor(api, itemId) {
    this.api = api;
    this.path = `items/${segment(itemId)}/experts`;
    this.tokens = [];
    this.total = null;
    this.at = -1;
    this.list = el("div", {
      class: "text tokens", role: "listbox", tabindex: "0", "aria-label": "Tokens; arrow keys choose one",
      onkeydown: (event) => this.#key(event),
      onclick: (event) => event.target.dataset.t && this.choose(Number(event.target.dataset.t)),
    });
    this.detail = el("div", { class: "opinions", "aria-live": "polite" });
    this.more = el("div", { class: "row center" });
    this.node = el("div", { class: "experts" }, el("div", { class: "read" }, legend(), this.list, this.more), this.detail);
  }

  async open() {
    if (this.total === null) await this.#fetch();
  }

  async #fetch() {
    const start = this.tokens.length;
    let view;
    try {
      view = await this.api.get(this.path, { start, stop: start + PAGE });
    } catch (error) {
      return replace(this.node, el("p", { class: "none" }, error.status === 404 ? `There is no view by token: ${error.message}.` : error.message));
    }
    this.total = view.total;
    this.tokens.push(...view.tokens);
    this.list.append(el("div", { class: "block", dir: "auto" }, view.tokens.map((token, at) => drawToken(token, start + at))));
    replace(this.more, this.tokens.length < this.total
      ? el("button", { type: "button", onclick: () => this.#fetch() }, `Show more of ${plural(this.total, "token")}`)
      : null);
    if (!this.tokens.some((token) => token.opinions?.length))
      replace(this.detail, el("p", { class: "none" }, "No expert has answered on this response."));
    else if (this.at < 0) replace(this.detail, el("p", { class: "none" }, "Choose a token to see what the experts would have said there."));
  }

  #key(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    this.choose(Math.max(0, Math.min(this.tokens.length - 1, this.at < 0 ? 0 : this.at + step)));
  }

  /** The next token at which the experts lie far from the student. */
  strong(step) {
    for (let t = this.at + step; t >= 0 && t < this.tokens.length; t += step)
      if ((this.tokens[t].disagreement ?? 0) >= STRONG) return this.choose(t);
  }

  choose(t) {
    this.list.querySelector("[aria-selected=true]")?.setAttribute("aria-selected", "false");
    const node = this.list.querySelector(`[data-t="${t}"]`);
    if (!node) return;
    this.at = t;
    node.setAttribute("aria-selected", "true");
    this.list.setAttribute("aria-activedescendant", node.id);
    node.scrollIntoView({ block: "nearest" });
    replace(this.detail, drawOpinions(this.tokens[t]));
  }
}

function drawToken(token, t) {
  const level = token.disagreement == null ? "none" : Math.min(4, Math.floor(token.disagreement * 5));
  return el("span", { class: `token level-${level}`, id: `token-${t}`, "data-t": t, role: "option", "aria-selected": "false", "aria-label": token.text.trim() ? null : spokenBlank(token.text) }, token.text || "∎");
}

/** What screen readers say where there is nothing to read. */
const spokenBlank = (text) => (!text ? "end" : text.includes("\n") ? "new line" : "space");

function legend() {
  return el("p", { class: "legend" }, "Experts agree ",
    [0, 1, 2, 3, 4].map((level) => el("span", { class: `token level-${level}`, "aria-hidden": "true" }, " ")),
    " would have said something else");
}

function drawOpinions(token) {
  const rows = (token.opinions ?? []).map((opinion) =>
    el("section", {},
      el("h3", {}, opinion.expert),
      el("ol", {}, (opinion.entries ?? []).map((entry) =>
        el("li", { class: entry.text === token.text ? "own" : "" },
          el("code", {}, shown(entry.text)),
          bar(entry.prob),
          el("span", { class: "share" }, percent(entry.prob)))))));
  return [
    el("p", { class: "chosen" }, "The student wrote ", el("code", {}, shown(token.text)),
      token.student_prob == null ? "" : ` (${percent(token.student_prob)} sure)`,
      token.disagreement == null ? ". No expert has an opinion here." : `. Disagreement ${percent(token.disagreement)}.`),
    el("div", { class: "columns" }, rows),
  ];
}

function bar(share) {
  const node = el("span", { class: "bar-of", "aria-hidden": "true" });
  node.style.setProperty("--share", String(share));
  return node;
}

const percent = (share) => `${share >= 0.0995 || share === 0 ? Math.round(share * 100) : (share * 100).toPrecision(2)} %`;
const shown = (text) => (text ? text.replaceAll(" ", "␣").replaceAll("\n", "↵") : "(nothing)");
