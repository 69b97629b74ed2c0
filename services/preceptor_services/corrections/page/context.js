// What people read beside a response: the prompt, the feedback, the guidelines.

import { el, longText } from "./dom.js";
import { drawGuidelines } from "./guide.js";

const ROLES = { system: "System", user: "User", assistant: "Assistant", tool: "Tool" };
const KINDS = {
  execution: "Executor",
  verdict: "Verdict",
  judge: "Judge",
  demonstration: "Demonstration",
  reference: "Reference",
  correction: "Correction",
  comment: "Comment",
};

const UNJUDGED = {
  nobody: "No feedback source was asked about this response.",
  unknown: "Whether anybody has judged this response is not known here.",
};

/** @param key drawn beside the title, where a key leads here */
export function pane(id, title, key, ...content) {
  return el(
    "section",
    { class: `pane pane-${id}`, id: `pane-${id}`, tabindex: "0", "aria-labelledby": `title-${id}` },
    el("div", { class: "panehead" }, el("h2", { id: `title-${id}`, class: "label" }, title), key),
    ...content,
  );
}

export function promptPane(item, key) {
  const messages = item.messages.map((message) =>
    el(
      "div",
      { class: "message" },
      item.messages.length > 1 || message.role !== "user"
        ? el("p", { class: "who" }, ROLES[message.role] ?? message.role)
        : null,
      longText(message.content, { class: "quiet-mono" }),
    ),
  );
  if (!messages.length) messages.push(el("p", { class: "none" }, "The prompt came as token ids only."));
  return pane("prompt", "Prompt", key, ...messages);
}

export function feedbackPane(item, key) {
  const cards = item.feedback.map(feedbackCard);
  if (!cards.length) cards.push(el("p", { class: "none" }, UNJUDGED[item.judged] ?? UNJUDGED.unknown));
  return pane("feedback", "Feedback", key, ...cards);
}

function feedbackCard(entry) {
  return el(
    "article",
    { class: `card kind-${entry.kind}` },
    el(
      "header",
      {},
      el("h3", {}, KINDS[entry.kind] ?? entry.kind),
      el("span", { class: "source" }, entry.source),
      entry.score === undefined || entry.score === null ? null : scoreBadge(entry.score),
    ),
    entry.error ? el("p", { class: "failed", dir: "auto" }, `This judgement failed: ${entry.error}`) : null,
    entry.text ? longText(entry.text, { class: entry.kind === "execution" ? "mono" : "prose-text" }) : null,
  );
}

function scoreBadge(score) {
  const tone = score >= 0.999 ? "good" : score <= 0.001 ? "bad" : "mixed";
  return el("span", { class: `score ${tone}` }, `score ${Number(score.toFixed(3))}`);
}

export function guidePane(item, key) {
  return pane(
    "guide",
    "Guidelines",
    key,
    item.guidelines.trim()
      ? drawGuidelines(item.guidelines)
      : el("p", { class: "none" }, "This round has no guidelines. Write the response that you would have wanted."),
  );
}
