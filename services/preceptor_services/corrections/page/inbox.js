// The inbox: what waits, what I hold, what I have done, by round and state.

import { segment } from "./api.js";
import { ago, el, plural, replace } from "./dom.js";

const STATES = { "": "Any state", open: "Open", review: "In review", done: "Done", ended: "Closed" };
const PAGE = 50;

/** @param roundName the round whose items are listed; all of them where it is null */
export async function openInbox(context, roundName) {
  const { api } = context;
  const [me, { rounds }, { claims }] = await Promise.all([api.get("me"), api.get("rounds"), api.get("claims")]);
  const isReviewer = me.person.role !== "annotator";
  const filters = { round: rounds.some(({ name }) => name === roundName) ? roundName : "", state: "", mine: "" };
  const list = el("ul", { class: "items", id: "items" });
  const more = el("div", { class: "row center" });
  const filterBar = drawFilters(filters, rounds, isReviewer, () => fill());

  async function fill(after = 0) {
    const page = await context.guarded(() => api.get("items", { ...filters, after, limit: PAGE }));
    if (!page) return;
    const rows = page.items.map((item) => itemRow(item, isReviewer, me.now));
    if (after) list.append(...rows);
    else replace(list, rows.length ? rows : emptyList(filters, isReviewer));
    replace(more, page.after
      ? el("button", { type: "button", onclick: () => fill(page.after) }, "Show more")
      : null);
  }
  await fill();

  const start = el("button", { type: "button", class: "primary big", onclick: () => context.nextItem(filters.round) },
    claims.length ? "Go on " : "Start ", context.kbd("any.next"));
  const heading = el("h1", { tabindex: "-1" }, greeting(me.progress, claims.length, isReviewer));
  const listed = el("h2", { id: "listed", class: "label", tabindex: "-1" }, isReviewer ? "All items" : "Your items");
  const node = el("div", { class: "inbox" },
    el("header", { class: "hero" },
      heading,
      el("p", { class: "lead" }, situation(me.progress, isReviewer)),
      el("div", { class: "row" },
        me.progress.available || claims.length ? start : null,
        isReviewer && me.progress.to_review
          ? el("button", { type: "button", class: me.progress.available || claims.length ? "big" : "primary big", onclick: () => context.nextReview() }, `Review ${plural(me.progress.to_review, "item")} `, context.kbd("any.review"))
          : null)),
    hasBegun(me.progress) ? drawProgress(me.progress) : null,
    claims.length ? el("section", { "aria-labelledby": "held" },
      el("h2", { id: "held", class: "label" }, "In your hands"),
      el("ul", { class: "items" }, claims.map((claim) => heldRow(claim)))) : null,
    rounds.length ? drawRounds(rounds, isReviewer) : null,
    el("section", { "aria-labelledby": "listed" },
      el("div", { class: "listhead" }, listed, filterBar),
      list, more));

  const move = (step) => {
    const links = [...node.querySelectorAll(".items a")];
    const at = links.indexOf(document.activeElement);
    links[Math.max(0, Math.min(links.length - 1, at < 0 ? 0 : at + step))]?.focus();
  };
  return {
    title: "Inbox",
    node,
    focus: filters.round ? listed : heading,
    opened: () => filters.round && listed.scrollIntoView({ block: "start" }),
    commands: {
      "list.down": () => move(1),
      "list.up": () => move(-1),
      "list.filter": () => filterBar.querySelector("select")?.focus(),
    },
  };
}

function greeting(progress, held, isReviewer) {
  if (held) return "Welcome back";
  if (progress.available) return plural(progress.available, "response") + (progress.available === 1 ? " waits for you" : " wait for you");
  return isReviewer && progress.to_review ? "Ready for your decision" : "All done";
}

function situation(progress, isReviewer) {
  const parts = [];
  if (progress.claimed) parts.push(`You hold ${plural(progress.claimed, "item")}`);
  if (progress.available && progress.claimed) parts.push(`${progress.available.toLocaleString("en")} more ${progress.available === 1 ? "waits" : "wait"}`);
  if (isReviewer && progress.to_review) parts.push(`${plural(progress.to_review, "item")} ${progress.to_review === 1 ? "waits" : "wait"} for a reviewer`);
  if (!parts.length && !progress.available) return "Nothing waits at the moment. New items come as the model trains.";
  return parts.length ? `${parts.join("; ")}.` : "Read, put right what is wrong, hand in. The next one opens by itself.";
}

const hasBegun = ({ submitted, skipped, flagged }) => submitted + skipped + flagged > 0;

function drawProgress(progress) {
  const figures = [
    ["Handed in", progress.submitted], ["Edited", progress.edited], ["Accepted", progress.accepted],
    ["Commented", progress.commented], ["Skipped", progress.skipped], ["Flagged", progress.flagged],
  ];
  return el("section", { "aria-labelledby": "progress" },
    el("h2", { id: "progress", class: "label" }, "Your work"),
    el("dl", { class: "figures" }, figures.map(([name, count]) =>
      el("div", { class: count ? "" : "zero" }, el("dt", {}, name), el("dd", {}, count.toLocaleString("en"))))));
}

function drawRounds(rounds, isReviewer) {
  return el("section", { "aria-labelledby": "rounds" },
    el("h2", { id: "rounds", class: "label" }, "Rounds"),
    el("ul", { class: "rounds" }, rounds.map(({ name, settings, counts }) =>
      el("li", {},
        el("div", { class: "listhead" }, el("h3", { dir: "auto" }, name), el("span", { class: "quiet" }, settings.closed ? "closed" : `${counts.done + counts.ended} of ${counts.total} settled`)),
        el("progress", { max: Math.max(1, counts.total), value: counts.done + counts.ended, "aria-label": `${name}: settled` }),
        el("p", { class: "quiet" }, `${counts.open} open, ${counts.claimed} in work, ${counts.review} in review`),
        el("p", {}, el("a", { href: `#/round/${segment(name)}` }, isReviewer ? `Items of ${name}` : `Your items of ${name}`))))));
}

function drawFilters(filters, rounds, isReviewer, changed) {
  const choose = (name, label, options) =>
    el("label", {}, el("span", { class: "hidden" }, label),
      el("select", { onchange: (event) => { filters[name] = event.target.value; changed(); } },
        options.map(([value, text]) => el("option", { value, selected: value === filters[name] }, text))));
  return el("div", { class: "filters", role: "group", "aria-label": "Filters" },
    choose("round", "Round", [["", "All rounds"], ...rounds.map(({ name }) => [name, name])]),
    choose("state", "State", Object.entries(STATES)),
    isReviewer ? choose("mine", "Whose", [["", "Everybody's"], ["true", "Mine"]]) : null);
}

function itemRow(item, isReviewer, now) {
  const to = item.state === "review" || (isReviewer && item.state !== "open") ? "review" : "item";
  const href = isReviewer ? `#/${to}/${segment(item.id)}` : `#/item/${segment(item.id)}`;
  return el("li", {}, el("a", { href },
    el("span", { class: `state ${item.state}` }, STATES[item.state]),
    el("span", { class: "excerpt", dir: "auto" }, oneLine(item.excerpt) || "(empty response)"),
    el("span", { class: "quiet" }, [item.round, item.reason, ago(now - item.updated_at)].join(" · "))));
}

function heldRow({ item, lease_until: until, now }) {
  const minutes = Math.max(0, Math.round((until - now) / 60));
  return el("li", {}, el("a", { href: `#/item/${segment(item.summary.id)}` },
    el("span", { class: "state held" }, "Yours"),
    el("span", { class: "excerpt", dir: "auto" }, oneLine(item.summary.excerpt) || "(empty response)"),
    el("span", { class: "quiet" }, `${item.summary.round} · ${minutes} min left${item.draft.revision ? " · with a draft" : ""}`)));
}

function emptyList(filters, isReviewer) {
  const isFiltered = Object.values(filters).some(Boolean);
  return el("li", { class: "empty" },
    el("p", {}, isFiltered ? "Nothing is like that." : isReviewer ? "No items yet." : "You have not worked on anything yet."),
    el("p", { class: "quiet" }, isFiltered ? "Choose other filters." : isReviewer ? "A run sends them with one line of its recipe; see the page on human corrections." : "What you work on is listed here, with what became of it."));
}

const oneLine = (text) => text.replace(/\s+/g, " ").trim();
