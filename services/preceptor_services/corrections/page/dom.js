// Builds elements. Text only ever becomes a text node: nothing that people or models wrote can
// become markup. This is the one module that makes elements.

/** el("p", {class: "x", onclick: f}, "text", child): strings become text nodes. */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) set(node, name, value);
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

function set(node, name, value) {
  if (value === null || value === undefined || value === false) return;
  if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
  else if (name === "class") node.className = value;
  else if (name === "value") node.value = value;
  else node.setAttribute(name, value === true ? "" : String(value));
}

export function replace(parent, ...children) {
  parent.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined));
}

/** A key as it is drawn. */
export const kbd = (name) => el("kbd", {}, name);

const LINES_A_BLOCK = 40;
const CHARS_A_BLOCK = 6000;

/** Long text in blocks that the browser lays out only when they come into view. */
export function longText(text, props = {}) {
  const box = el("div", { ...props, class: `text ${props.class ?? ""}` });
  for (const block of blocks(text)) box.append(el("div", { class: "block", dir: "auto" }, block));
  return box;
}

/** Pieces of some lines each; a line that is too long alone is cut between characters. */
export function* blocks(text) {
  let start = 0;
  while (start < text.length) {
    let end = start;
    let lines = 0;
    while (end < text.length && lines < LINES_A_BLOCK && end - start < CHARS_A_BLOCK) {
      const newline = text.indexOf("\n", end);
      end = newline < 0 ? text.length : newline + 1;
      lines += 1;
    }
    end = Math.min(end, start + 2 * CHARS_A_BLOCK);
    if (isLowSurrogate(text.charCodeAt(end))) end += 1;
    // The block is a line of its own, so the newline that ends it would be an empty line.
    const shown = text.slice(start, end);
    yield end < text.length && shown.endsWith("\n") ? shown.slice(0, -1) || "\u200b" : shown;
    start = end;
  }
}

const isLowSurrogate = (unit) => unit >= 0xdc00 && unit <= 0xdfff;

export const plural = (count, one, many = `${one}s`) =>
  `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

export function ago(seconds) {
  if (seconds < 60) return "just now";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return plural(Math.floor(seconds / 86400), "day") + " ago";
}
