// Deciding: the versions of one item side by side, each as what it changed.

import { segment } from "./api.js";
import { drawChanges, size } from "./changes.js";
import { feedbackPane, guidePane, promptPane } from "./context.js";
import { confirm } from "./dialog.js";
import { ago, el, longText, plural, replace } from "./dom.js";
import { Editor } from "./editor.js";
import { isMeant } from "./handing_in.js";
import { normal } from "./line_ends.js";

const DECISIONS = { edit: "Edited", accept: "Accepted as it is", comment: "Comment only" };
const COMMANDS = ["review.first", "review.second", "review.third"];

export async function openReview(context, itemId) {
  if (context.me.person.role === "annotator") throw new Error("Reviewing is for reviewers.");
  const [item, me] = await Promise.all([context.api.get(`items/${segment(itemId)}`), context.api.get("me")]);
  return new ReviewScreen(context, item, me.now).screen();
}

class ReviewScreen {
  constructor(context, item, now) {
    Object.assign(this, { context, item, now });
    this.versions = item.versions.filter((version) => !version.retired);
    this.comment = el("textarea", { id: "comment", rows: "1", maxlength: "20000", dir: "auto", placeholder: "Why, if it needs saying" });
    this.own = el("div", { class: "own", hidden: true });
  }

  screen() {
    const { summary } = this.item;
    this.heading = el("h1", { tabindex: "-1", dir: "auto" }, summary.problem_id ?? "Response");
    this.actions = el("footer", { class: "actions" });
    this.columns = el("div", { class: "versions" });
    this.node = el("div", { class: "work review", "data-pane": "response" },
      el("header", { class: "workhead" }, this.heading,
        el("p", { class: "quiet" }, [summary.round, `chosen: ${summary.reason}`, standing(this.item)].join(" · "))),
      el("div", { class: "deskreview" },
        el("div", { class: "side" }, promptPane(this.item), feedbackPane(this.item), guidePane(this.item), this.#history()),
        el("div", { class: "judged" }, this.columns, this.own)),
      this.actions);
    this.#draw();
    return {
      title: `Review ${summary.problem_id ?? "response"}`,
      node: this.node,
      focus: this.heading,
      commands: {
        ...Object.fromEntries(this.versions.slice(0, 3).map((version, at) => [COMMANDS[at], () => this.approve(version)])),
        "review.own": () => this.write(),
        "review.reopen": () => this.reopen(),
        "review.discard": () => this.discard(),
        "review.comment": () => this.comment.focus(),
        "review.submit": () => this.approveOwn(),
        "review.leave": () => this.heading.focus(),
      },
    };
  }

  #draw() {
    const key = this.context.kbd;
    replace(this.columns, this.#original(), this.versions.map((version, at) => this.#version(version, at)));
    replace(this.actions,
      el("label", { for: "comment", class: "hidden" }, "Comment"),
      this.comment,
      el("div", { class: "row" },
        el("button", { type: "button", class: "plain", onclick: () => this.write() }, "Write my own ", key("review.own")),
        el("button", { type: "button", class: "plain", onclick: () => this.reopen() }, "Send back ", key("review.reopen")),
        el("button", { type: "button", class: "plain", onclick: () => this.discard() }, "Close without one ", key("review.discard"))));
  }

  #original() {
    return el("section", { class: "version", tabindex: "0", "aria-label": "Response as it came" },
      el("header", {}, el("h2", {}, "Response"), el("p", { class: "quiet" }, "as it came")),
      longText(this.item.response_text));
  }

  #version(version, at) {
    const name = String.fromCharCode(65 + at);
    const changed = version.text == null ? null : drawChanges(normal(this.item.response_text), normal(version.text));
    return el("section", { class: `version ${version.authoritative ? "stands" : ""}`, tabindex: "0", "aria-label": `Version ${name}` },
      el("header", {},
        el("h2", {}, `Version ${name}`),
        el("p", { class: "quiet" }, [version.person, DECISIONS[version.decision], changed ? sizeOf(changed) : null, ago(this.now - version.created_at)].filter(Boolean).join(" · "))),
      version.comment ? el("blockquote", { dir: "auto" }, version.comment) : null,
      changed ? changed.node : version.decision === "accept"
        ? el("p", { class: "none" }, "Nothing to change: the response is right as it came.")
        : null,
      el("footer", {}, version.authoritative ? el("p", { class: "good" }, "This one stands") : null,
        el("button", { type: "button", class: version.authoritative ? "" : "primary", onclick: () => this.approve(version) },
          `Approve ${name} `, COMMANDS[at] ? this.context.kbd(COMMANDS[at]) : null)));
  }

  #history() {
    const events = [
      ...this.item.history.map((claim) => [claim.ended_at ?? claim.claimed_at, `${claim.person}: ${claim.state}`, claim.reason]),
      ...this.item.reviews.map((review) => [review.created_at, `${review.reviewer}: ${review.verdict}`, review.comment]),
    ].sort(([a], [b]) => a - b);
    return el("section", { class: "pane", tabindex: "0", "aria-labelledby": "title-history" },
      el("h2", { class: "label", id: "title-history" }, "History"),
      events.length
        ? el("ol", { class: "history" }, events.map(([at, text, why]) =>
          el("li", {}, text, el("span", { class: "quiet" }, ` · ${ago(this.now - at)}`), why ? el("blockquote", { dir: "auto" }, why) : null)))
        : el("p", { class: "none" }, "Nobody has worked on it."));
  }

  write() {
    if (this.own.hidden) {
      const from = this.versions.find((version) => version.text != null)?.text ?? this.item.response_text;
      const preview = el("div", { class: "below" });
      const draw = () => replace(preview, drawChanges(this.editor.shownOriginal, this.editor.shown).node);
      let timer = null;
      this.editor = new Editor(this.item.response_text, from, () => {
        clearTimeout(timer);
        timer = setTimeout(draw, 120);
      });
      replace(this.own,
        el("h2", { class: "label" }, "Your own version"), this.editor.area, preview,
        el("div", { class: "row end" },
          el("button", { type: "button", class: "plain", onclick: () => { this.own.hidden = true; this.heading.focus(); } }, "Leave it"),
          el("button", { type: "button", class: "primary", onclick: () => this.approveOwn() }, "Approve mine ", this.context.kbd("review.submit"))));
      draw();
      this.own.hidden = false;
    }
    this.own.scrollIntoView({ block: "nearest" });
    this.editor.area.focus();
  }

  approve(version) {
    return this.#decide({ verdict: "approve", version: version.id }, "Approved.");
  }

  async approveOwn() {
    if (this.own.hidden || !(await isMeant(this.editor))) return undefined;
    const submission = this.editor.isChanged ? { decision: "edit", text: this.editor.text } : { decision: "accept" };
    return this.#decide({ verdict: "approve", submission }, "Your version stands.");
  }

  reopen() {
    return this.#decide({ verdict: "reopen" }, "Sent back to the queue.");
  }

  async discard() {
    if (await confirm("Close without a version?", "Nothing will be learnt from this item. A later decision can still change that.", "Close it"))
      await this.#decide({ verdict: "discard" }, "Closed.");
  }

  async #decide(decision, said) {
    if (this.isActing) return;
    this.isActing = true;
    const comment = this.comment.value.trim();
    await this.context.guarded(async () => {
      await this.context.api.post(`items/${segment(this.item.summary.id)}/review`, { ...decision, ...(comment ? { comment } : {}) });
      this.context.note(said, "good");
      await this.context.nextReview(this.item.summary.id);
    });
    this.isActing = false;
  }
}

function standing(item) {
  const { state, submitted, wanted } = item.summary;
  const text = { open: "open", review: "waits for you", done: "settled", ended: "closed" }[state];
  return `${text}; ${plural(submitted, "version")} of ${wanted}`;
}

function sizeOf({ count, runs }) {
  const { added, removed } = size(runs);
  return `${plural(count, "change")}, +${added} −${removed}`;
}
