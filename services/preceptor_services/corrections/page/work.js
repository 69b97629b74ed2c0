// One item at work: read, edit, hand in; the next one opens by itself.

import { Refused, segment } from "./api.js";
import { drawChanges, size } from "./changes.js";
import { feedbackPane, guidePane, pane, promptPane } from "./context.js";
import { askReason, confirm } from "./dialog.js";
import { el, longText, plural, replace } from "./dom.js";
import { Draft } from "./drafts.js";
import { Editor } from "./editor.js";
import { isMeant } from "./handing_in.js";
import { clock, Lease } from "./lease.js";
import { normal } from "./line_ends.js";
import { Tokens } from "./tokens.js";

const DIFF_MS = 120;
const LONG_CHARS = 50_000;
const SAVED = {
  saving: "Saving…", saved: "Draft saved", local: "Kept in this browser; the server is away",
  conflict: "Another window has a newer draft",
};

export async function openWork(context, itemId) {
  const claim = await claimOf(context, itemId);
  return claim ? new Work(context, claim).screen() : lookOnly(context, await context.api.get(`items/${segment(itemId)}`));
}

/** The claim that I hold on an item, or a new one; null where it is not to be had. */
async function claimOf({ api }, itemId) {
  const { claims } = await api.get("claims");
  const held = claims.find((claim) => claim.item.summary.id === itemId);
  if (held) return held;
  try {
    return (await api.post("claims", { item: itemId })).claim ?? null;
  } catch (error) {
    if (error instanceof Refused && error.status === 409) return null;
    throw error;
  }
}

class Work {
  constructor(context, claim) {
    this.context = context;
    this.api = context.api;
    this.claim = claim;
    this.item = claim.item;
    const { person } = context.me;
    this.status = el("span", { class: "draftstate", role: "status" });
    this.draft = new Draft(this.api, person.name, this.item.summary.id, this.item.draft, (state, why) => this.#tell(state, why));
    const kept = this.draft.content;
    this.editor = new Editor(this.item.response_text, kept.text ?? this.item.response_text, () => this.#changed());
    this.comment = el("textarea", { id: "comment", rows: "1", maxlength: "20000", dir: "auto", placeholder: "Comment, if something needs saying", oninput: () => this.#changed() });
    this.comment.value = kept.comment ?? "";
    this.timeLeft = el("span", { class: "lease" });
    this.banner = el("div", { class: "banner", role: "alert", hidden: true });
    this.tokens = new Tokens(this.api, this.item.summary.id);
    this.below = el("div", { class: "below", tabindex: "0", role: "tabpanel", "aria-label": "Changes" });
    this.tabs = this.#drawTabs();
    this.submitButton = el("button", { type: "button", class: "primary", onclick: () => this.submit() });
    this.acceptButton = el("button", { type: "button", onclick: () => this.accept() });
    this.view = "changes";
  }

  screen() {
    const { summary } = this.item;
    const key = this.context.kbd;
    this.heading = el("h1", { tabindex: "-1", dir: "auto" }, summary.problem_id ?? "Response");
    const response = pane("response", "Response", key("work.edit"), this.editor.area, this.tabs, this.below);
    response.removeAttribute("tabindex");
    this.node = el("div", { class: "work", "data-pane": "response" },
      el("header", { class: "workhead" },
        this.heading,
        el("p", { class: "quiet" }, [summary.round, `chosen: ${summary.reason}`, this.item.finish_reason === "length" ? "cut off at the length limit" : null].filter(Boolean).join(" · ")),
        this.status,
        this.timeLeft),
      this.banner,
      this.#paneTabs(),
      el("div", { class: "desk" },
        el("div", { class: "side" }, promptPane(this.item, key("work.prompt")), guidePane(this.item, key("work.guide"))),
        response,
        el("div", { class: "side" }, feedbackPane(this.item, key("work.feedback")))),
      this.#drawActions());
    this.lease = new Lease(this.api, this.claim, (left) => this.#showLease(left));
    this.onHide = () => this.draft.leave();
    window.addEventListener("pagehide", this.onHide);
    this.#show("changes");
    this.#label();
    if (this.draft.older) this.#offer(this.draft.older, "This browser kept an older text that was never saved.");
    if (this.item.draft.revision && !this.draft.older) this.status.textContent = "Your draft is back";
    return {
      title: summary.problem_id ?? "Response",
      node: this.node,
      focus: this.heading,
      commands: this.#commands(),
      close: () => this.close(),
    };
  }

  #commands() {
    const goTo = (id) => () => {
      this.node.dataset.pane = id;
      this.#markPane();
      document.getElementById(`pane-${id}`).focus();
    };
    return {
      "work.edit": () => { this.node.dataset.pane = "response"; this.#markPane(); this.editor.area.focus(); },
      "work.leave": () => this.heading.focus(),
      "work.submit": () => this.submit(),
      "work.accept": () => this.accept(),
      "work.comment": () => this.comment.focus(),
      "work.skip": () => this.leave("skip"),
      "work.flag": () => this.leave("flag"),
      "work.release": () => this.release(),
      "work.undo": () => this.editor.undo(),
      "work.redo": () => this.editor.redo(),
      "work.restore": () => this.restore(),
      "work.changes": () => this.#show("changes", true),
      "work.experts": () => this.#show("experts", true),
      "work.original": () => this.#show("original", true),
      "work.nextchange": () => this.#jump(1),
      "work.lastchange": () => this.#jump(-1),
      "work.prompt": goTo("prompt"),
      "work.feedback": goTo("feedback"),
      "work.guide": goTo("guide"),
    };
  }

  // ---------------------------------------------------------------- what is shown

  #drawTabs() {
    const tab = (view, text, command) => el("button", {
      type: "button", role: "tab", id: `tab-${view}`, "data-view": view, "aria-selected": "false",
      onclick: () => this.#show(view),
    }, el("span", {}, text, view === "changes" ? el("span", { class: "counted" }) : null), " ", this.context.kbd(command));
    const tabs = el("div", { class: "tabs", role: "tablist", "aria-label": "Below the text" },
      tab("changes", "Changes", "work.changes"), tab("experts", "Experts", "work.experts"), tab("original", "Original", "work.original"));
    tabs.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const all = [...tabs.children];
      const next = all[(all.indexOf(document.activeElement) + step + all.length) % all.length];
      this.#show(next.dataset.view);
      next.focus();
    });
    return tabs;
  }

  #paneTabs() {
    const names = [["response", "Response"], ["prompt", "Prompt"], ["feedback", "Feedback"], ["guide", "Guidelines"]];
    this.paneTabs = el("div", { class: "panetabs", role: "group", "aria-label": "What is shown" }, names.map(([id, text]) =>
      el("button", { type: "button", "data-pane": id, "aria-pressed": "false", onclick: () => { this.node.dataset.pane = id; this.#markPane(); } }, text)));
    this.#markPane("response");
    return this.paneTabs;
  }

  #markPane(id = this.node.dataset.pane) {
    for (const button of this.paneTabs.children) button.setAttribute("aria-pressed", String(button.dataset.pane === id));
  }

  #show(view, isAsked = false) {
    this.view = view;
    for (const tab of this.tabs.children) {
      const isShown = tab.dataset.view === view;
      tab.setAttribute("aria-selected", String(isShown));
      tab.tabIndex = isShown ? 0 : -1;
      if (isShown) this.below.setAttribute("aria-label", tab.dataset.view);
    }
    if (view === "experts") {
      replace(this.below, this.tokens.node);
      this.tokens.open().then(() => isAsked && this.tokens.list.focus());
    } else if (view === "original") replace(this.below, longText(this.item.response_text));
    else this.#drawDiff();
    if (isAsked && view !== "experts") this.below.focus();
  }

  #drawDiff() {
    this.diffTimer = null;
    if (!this.editor.isChanged) {
      this.counted = "";
      if (this.view === "changes")
        replace(this.below, el("p", { class: "none" }, "No changes yet. Press ", this.context.kbd("work.edit"), " and write; what you change shows here as you go."));
    } else {
      const start = performance.now();
      const { node, count, runs } = drawChanges(this.editor.shownOriginal, this.editor.shown);
      this.diffTook = performance.now() - start;
      const { added, removed } = size(runs);
      this.counted = `${plural(count, "change")}, +${added.toLocaleString("en")} −${removed.toLocaleString("en")}`;
      if (this.view === "changes") replace(this.below, node);
    }
    this.tabs.querySelector(".counted").textContent = this.counted && ` · ${this.counted}`;
  }

  #jump(step) {
    if (this.view === "experts") return this.tokens.strong(step);
    if (this.view !== "changes") this.#show("changes");
    const marks = [...this.below.querySelectorAll("[data-change]")];
    if (!marks.length) return;
    this.mark = ((this.mark ?? (step > 0 ? -1 : 0)) + step + marks.length) % marks.length;
    marks.forEach((mark, at) => mark.classList.toggle("here", at === this.mark));
    marks[this.mark].scrollIntoView({ block: "center" });
  }

  #drawActions() {
    this.actions = el("footer", { class: "actions" });
    return this.actions;
  }

  #label() {
    const key = this.context.kbd;
    const plain = (id, text, act) => el("button", { type: "button", class: "plain", onclick: act }, text, " ", key(id));
    replace(this.actions,
      el("label", { for: "comment", class: "hidden" }, "Comment"),
      this.comment,
      el("div", { class: "row" },
        plain("work.release", "Give back", () => this.release()),
        plain("work.restore", "Start again", () => this.restore()),
        plain("work.skip", "Skip", () => this.leave("skip")),
        plain("work.flag", "Flag", () => this.leave("flag")),
        el("span", { class: "gap" }),
        this.acceptButton,
        this.submitButton));
    replace(this.acceptButton, "Accept as it is ", key("work.accept"));
    this.#labelSubmit();
  }

  #labelSubmit() {
    const text = this.editor.isChanged ? "Hand in the edit " : this.comment.value.trim() ? "Hand in the comment " : "Hand in ";
    if (this.submitButton.firstChild?.textContent === text) return;
    replace(this.submitButton, text, this.context.kbd("work.submit"));
    this.acceptButton.hidden = this.editor.isChanged;
  }

  #changed() {
    const text = this.editor.isChanged ? this.editor.text : null;
    this.draft.note({ text, comment: this.comment.value || null });
    this.lease.touch();
    this.mark = undefined;
    // Not at each key: the difference of a long text takes longer than a key may, so it waits for a pause.
    if (this.editor.shown.length > LONG_CHARS) this.#dropDiff();
    this.diffTimer ??= setTimeout(() => this.#drawDiff(), Math.max(DIFF_MS, 8 * (this.diffTook ?? 0)));
    this.#labelSubmit();
  }

  #dropDiff() {
    clearTimeout(this.diffTimer);
    this.diffTimer = null;
  }

  // ---------------------------------------------------------------- draft and lease

  #tell(state, why) {
    this.status.textContent = state === "refused" ? `Not saved: ${why}` : SAVED[state];
    this.status.dataset.state = state;
    if (state === "conflict") this.#askWhichDraft();
  }

  async #askWhichDraft() {
    const theirs = await this.draft.theirs();
    const mine = { text: this.editor.isChanged ? this.editor.text : null, comment: this.comment.value || null };
    this.#say("Another window of yours has saved a newer draft of this item.",
      ["Keep what is here", () => this.draft.over(theirs, mine)],
      ["Take the other one", () => { this.#put(theirs); this.draft.over(theirs, { text: theirs.text ?? null, comment: theirs.comment ?? null }); }]);
  }

  #offer(older, why) {
    this.#say(why, ["Leave it", () => this.draft.note(this.draft.content)], ["Put it in", () => this.#put(older)]);
  }

  #put({ text, comment }) {
    this.comment.value = comment ?? "";
    this.editor.take(text ?? this.item.response_text);
  }

  #say(text, ...actions) {
    replace(this.banner, el("p", {}, text), actions.map(([label, act]) =>
      el("button", { type: "button", onclick: () => { this.banner.hidden = true; act(); } }, label)));
    this.banner.hidden = false;
  }

  #showLease({ left, total, state, why }) {
    this.timeLeft.dataset.state = state;
    const text = { held: `${clock(left)} left`, soon: `${clock(left)} left`, over: "Time is up", lost: "No longer yours" }[state];
    if (this.timeLeft.textContent !== text) this.timeLeft.textContent = text;
    this.timeLeft.title = "How long the item is yours. It is renewed while you work.";
    this.timeLeft.style.setProperty("--left", String(left / total));
    if (state === this.leaseState) return;
    this.leaseState = state;
    if (state === "soon") this.#say(`Still there? The item goes to somebody else in ${clock(left)}.`, ["I am here", () => this.#renew()]);
    if (state === "over") this.#say("Your time with this item is up. Your draft is kept, and you can hand in as long as nobody else has taken it.", ["Take it again", () => this.#renew()]);
    if (state === "lost") this.#say(`${sentence(why)} Your draft is kept.`, ["Next item", () => this.context.nextItem()]);
    if (state === "held") this.banner.hidden = true;
  }

  async #renew() {
    if (!(await this.lease.renew()) && !this.lease.lostBecause) this.context.note("The server does not answer.", "bad");
  }

  // ---------------------------------------------------------------- what people decide

  async submit() {
    if (this.editor.isChanged) {
      if (await isMeant(this.editor)) await this.#handIn({ decision: "edit", text: this.editor.text }, "Edit handed in.");
    } else if (this.comment.value.trim()) await this.#handIn({ decision: "comment" }, "Comment handed in.");
    else if (await isMeant(this.editor)) await this.#handIn({ decision: "accept" }, "Accepted.");
  }

  async accept() {
    if (this.editor.isChanged)
      return this.context.note(`You have changed the text. Hand the edit in (${this.context.shown("work.submit")}), or start again from the response (${this.context.shown("work.restore")}).`);
    if (this.editor.shown.trim() || (await isMeant(this.editor))) await this.#handIn({ decision: "accept" }, "Accepted.");
  }

  async #handIn(submission, said) {
    const comment = this.comment.value.trim();
    await this.#once(async () => {
      await this.api.post(`claims/${segment(this.claim.id)}/submit`, { ...submission, ...(comment ? { comment } : {}) });
      await this.#gone(said);
    });
  }

  async leave(how) {
    const texts = how === "skip"
      ? ["Skip this item", "Somebody else will get it, and you will not see it again.", ["I do not know enough about this", "It is unclear what was asked", "It takes too long"], "Skip"]
      : ["Flag this item", "A reviewer will look at it.", ["The prompt itself is broken", "It has private data in it", "It is unsafe", "It is a duplicate"], "Flag"];
    const reason = await askReason(...texts);
    if (!reason) return;
    await this.#once(async () => {
      await this.api.post(`claims/${segment(this.claim.id)}/${how}`, { reason });
      await this.#gone(how === "skip" ? "Skipped." : "Flagged for a reviewer.");
    });
  }

  async release() {
    await this.#once(async () => {
      await this.draft.save();
      await this.api.post(`claims/${segment(this.claim.id)}/release`, {});
      this.isGone = true;
      this.context.note("Given back. Your draft is kept.");
      this.context.go("#/");
    });
  }

  async restore() {
    if (!this.editor.isChanged) return;
    const isSure = await confirm("Start again?", `The text goes back to the response as it came. ${this.context.shown("work.undo")} brings your edit back.`, "Start again");
    if (isSure) this.editor.take(this.item.response_text);
  }

  /** Keys come faster than servers: one decision at a time. */
  async #once(act) {
    if (this.isActing) return;
    this.isActing = true;
    await this.context.guarded(act);
    this.isActing = false;
  }

  async #gone(said) {
    this.isGone = true;
    await this.draft.drop();
    this.context.note(said, "good");
    await this.context.nextItem();
  }

  async close() {
    this.lease.close();
    this.#dropDiff();
    window.removeEventListener("pagehide", this.onHide);
    if (!this.isGone) await this.draft.close();
  }
}

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}${text.endsWith(".") ? "" : "."}`;

// ---------------------------------------------------------------- an item that is not mine to change

function lookOnly(context, item) {
  const own = item.versions.at(-1);
  const shown = own?.text === undefined || own === undefined
    ? longText(item.response_text)
    : drawChanges(normal(item.response_text), normal(own.text)).node;
  const heading = el("h1", { tabindex: "-1", dir: "auto" }, item.summary.problem_id ?? "Response");
  return {
    title: "Looking back",
    focus: heading,
    node: el("div", { class: "work", "data-pane": "response" },
      el("header", { class: "workhead" }, heading,
        el("p", { class: "quiet" }, `${item.summary.round} · ${said(item, own)}`)),
      el("div", { class: "desk" },
        el("div", { class: "side" }, promptPane(item), guidePane(item)),
        pane("response", own ? "What was handed in" : "Response", null, shown, own?.comment ? el("blockquote", { dir: "auto" }, own.comment) : null),
        el("div", { class: "side" }, feedbackPane(item)))),
    commands: {},
  };
}

function said(item, own) {
  const state = { open: "still open", review: "a reviewer decides", done: "settled", ended: "closed" }[item.summary.state];
  return own ? `${state}; ${{ edit: "edited", accept: "accepted as it is", comment: "commented" }[own.decision]} by ${own.person}` : state;
}
