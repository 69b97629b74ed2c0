// Guidelines as people write them: a small part of Markdown, as elements. Whatever it does not know
// stays text; links are shown as text, since an item must not lead anywhere.

import { el } from "./dom.js";

export function drawGuidelines(markdown) {
  const box = el("div", { class: "prose" });
  for (const paragraph of markdown.replaceAll("\r\n", "\n").split(/\n{2,}/)) {
    const lines = paragraph.split("\n").filter((line) => line.trim());
    if (lines.length) box.append(...drawParagraph(lines));
  }
  return box;
}

function drawParagraph(lines) {
  const heading = /^(#{1,4})\s+(.*)$/.exec(lines[0]);
  if (heading) return [el("h3", { dir: "auto" }, ...inline(heading[2])), ...(lines.length > 1 ? drawParagraph(lines.slice(1)) : [])];
  const bullet = /^\s*(?:[-*]|\d+[.)])\s+/;
  if (bullet.test(lines[0])) {
    const tag = /^\s*\d/.test(lines[0]) ? "ol" : "ul";
    return [el(tag, {}, items(lines, bullet))];
  }
  return [el("p", { dir: "auto" }, ...inline(lines.join(" ")))];
}

/** A line without a bullet goes on the item above it. */
function items(lines, bullet) {
  const texts = [];
  for (const line of lines) {
    if (bullet.test(line)) texts.push(line.replace(bullet, ""));
    else texts[texts.length - 1] += ` ${line.trim()}`;
  }
  return texts.map((text) => el("li", { dir: "auto" }, ...inline(text)));
}

function inline(text) {
  return text.split(/(`[^`]+`|\*\*[^*]+\*\*)/).filter(Boolean).map((part) => {
    if (part.length > 2 && part.startsWith("`")) return el("code", {}, part.slice(1, -1));
    if (part.length > 4 && part.startsWith("**")) return el("strong", {}, part.slice(2, -2));
    return part;
  });
}
