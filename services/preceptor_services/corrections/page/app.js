// The page: who is signed in, which screen is open, which key does what.

import { connect, segment } from "./api.js";
import { el, replace } from "./dom.js";
import { openInbox } from "./inbox.js";
import { redrawKeys, spoken } from "./keys.js";
import { clearNotes, note } from "./notes.js";
import { openReview } from "./review.js";
import { rememberedTheme, Settings } from "./settings.js";
import { drawSignIn } from "./signin.js";
import { openWork } from "./work.js";

// Of one tab and gone with it, and, unlike a cookie, never sent by itself: no other site can use it.
const KEY_SLOT = "preceptor-key";

const main = document.getElementById("main");
const bar = document.getElementById("bar");
const state = { api: null, me: null, settings: null, screen: null, turn: 0 };

function signOut(why) {
  sessionStorage.removeItem(KEY_SLOT);
  state.screen?.close?.();
  Object.assign(state, { api: null, me: null, settings: null, screen: null, turn: state.turn + 1 });
  replace(bar);
  bar.hidden = true;
  document.title = "Sign in · Corrections";
  drawSignIn(main, why, (key, me) => {
    sessionStorage.setItem(KEY_SLOT, key);
    enter(key, me);
  });
}

function enter(key, me) {
  state.api = connect(key, () => signOut("Your key opens nothing any more. Ask for a new one."));
  state.me = me;
  state.settings = new Settings(state.api, me);
  drawBar();
  show();
}

function drawBar() {
  bar.hidden = false;
  const { person } = state.me;
  const isReviewer = person.role !== "annotator";
  const button = (id, text) =>
    el("button", { type: "button", class: "plain", onclick: everywhere[id] }, text, " ", context.kbd(id));
  replace(
    bar,
    el("a", { href: "#/", class: "brand" }, el("span", { "aria-hidden": "true", class: "mark" }, "✎"), "Corrections"),
    el("nav", { "aria-label": "Main" },
      button("any.inbox", "Inbox"),
      button("any.next", "Next"),
      isReviewer ? button("any.review", "Review") : null,
      button("any.help", "Keys"),
      button("any.theme", "Theme")),
    el("span", { class: "person" }, person.name, el("span", { class: "role" }, person.role)),
    el("button", { type: "button", class: "plain", onclick: () => signOut() }, "Sign out"),
  );
}

const everywhere = {
  "any.help": () => state.settings.showKeys(),
  "any.inbox": () => go("#/"),
  "any.next": () => nextItem(),
  "any.review": () => nextReview(),
  "any.theme": () => state.settings.nextTheme(),
};

function go(hash) {
  if (location.hash === hash || (hash === "#/" && !location.hash)) show();
  else location.hash = hash;
}

/** Opens the next item: another one that I hold already, or else a new one under claim. */
async function nextItem(round) {
  await guarded(async () => {
    const open = decodeURIComponent(/^#\/item\/(.+)$/.exec(location.hash)?.[1] ?? "");
    const { claims } = await state.api.get("claims");
    const held = claims.find(({ item }) => item.summary.id !== open);
    if (held) return openItem(held.item.summary.id);
    const { claim } = await state.api.post("claims", round ? { round } : {});
    if (claim) return openItem(claim.item.summary.id);
    if (claims.length) return note("Nothing else is left; this is the last one.");
    note("Nothing is left for you to do. Thank you.", "good");
    go("#/");
  });
}

async function nextReview(except) {
  if (state.me.person.role === "annotator") return note("Reviewing is for reviewers.");
  await guarded(async () => {
    const { items } = await state.api.get("items", { state: "review", limit: 2 });
    const next = items.find((item) => item.id !== except);
    if (next) return go(`#/review/${segment(next.id)}`);
    note("Nothing waits for a reviewer.", "good");
    go("#/");
  });
}

const openItem = (id) => go(`#/item/${segment(id)}`);

/** Runs `work`; what the server refuses becomes a note in its own words. */
async function guarded(work) {
  try {
    clearNotes();
    return await work();
  } catch (error) {
    note(error.message, "bad");
    return undefined;
  }
}

const context = {
  get api() { return state.api; },
  get me() { return state.me; },
  get keymap() { return state.settings.keymap; },
  go, guarded, nextItem, nextReview, note, openItem,
  shown: (id) => spoken(state.settings.keymap.key(id)),
  kbd: (id) => el("kbd", { "data-key": id }, spoken(state.settings.keymap.key(id))),
};

async function show() {
  if (!state.api) return;
  const turn = ++state.turn;
  const [, kind, id] = /^#\/(?:(item|review|round)\/(.+))?$/.exec(location.hash || "#/") ?? [];
  const open = { item: openWork, review: openReview }[kind] ?? openInbox;
  await state.screen?.close?.();
  state.screen = null;
  main.setAttribute("aria-busy", "true");
  let screen;
  try {
    screen = await open(context, id ? decodeURIComponent(id) : null);
  } catch (error) {
    screen = trouble(error);
  }
  if (turn !== state.turn) return void screen.close?.();
  main.removeAttribute("aria-busy");
  state.screen = screen;
  document.title = `${screen.title} · Corrections`;
  replace(main, screen.node);
  window.scrollTo(0, 0);
  (screen.focus ?? main).focus({ preventScroll: true });
  screen.opened?.();
}

function trouble(error) {
  return {
    title: "Something went wrong",
    node: el("div", { class: "alone" },
      el("h1", {}, "This did not work"),
      el("p", {}, error.message),
      el("p", {}, el("button", { type: "button", class: "primary", onclick: show }, "Try again"), " ", el("a", { href: "#/" }, "Back to the inbox"))),
    commands: {},
  };
}

document.addEventListener("keydown", (event) => {
  if (!state.settings || document.querySelector("dialog[open]")) return;
  const run = state.settings.keymap.handler(event, { ...everywhere, ...state.screen?.commands });
  if (!run) return;
  event.preventDefault();
  run(event);
});
document.addEventListener("keyschanged", () => redrawKeys(state.settings.keymap));
window.addEventListener("hashchange", show);

rememberedTheme();
const key = sessionStorage.getItem(KEY_SLOT);
if (!key) signOut();
else {
  try {
    enter(key, await connect(key, () => {}).get("me"));
  } catch (error) {
    if (error.status === 401 || error.status === 403) signOut("Your key opens nothing any more. Ask for a new one.");
    else {
      replace(main, trouble(error).node);
      setTimeout(() => location.reload(), 3_000);
    }
  }
}
