// Keys and what they do. Single keys act while nobody types; those with Mod (Ctrl, or Command on a
// Mac) and Escape act everywhere. Each person may change them (WCAG 2.1.4); the server keeps them.

/** Commands by id: where they work, what they do, their key at first. */
export const COMMANDS = {
  "any.help": ["Everywhere", "Show and change keys", "?"],
  "any.inbox": ["Everywhere", "Go to the inbox", "i"],
  "any.next": ["Everywhere", "Open the next item", "n"],
  "any.review": ["Everywhere", "Open the next item to review", "v"],
  "any.theme": ["Everywhere", "Change between light and dark", "L"],
  "list.down": ["In lists", "Down", "j"],
  "list.up": ["In lists", "Up", "k"],
  "list.filter": ["In lists", "Go to the filters", "/"],
  "work.edit": ["At work", "Edit the response", "e"],
  "work.leave": ["At work", "Stop typing", "Escape"],
  "work.submit": ["At work", "Hand in", "Mod+Enter"],
  "work.accept": ["At work", "Accept the response as it is", "a"],
  "work.comment": ["At work", "Write a comment", "c"],
  "work.skip": ["At work", "Skip, with a reason", "s"],
  "work.flag": ["At work", "Flag for a reviewer, with a reason", "f"],
  "work.release": ["At work", "Give the item back", "b"],
  "work.undo": ["At work", "Undo", "Mod+z"],
  "work.redo": ["At work", "Redo", "Mod+Z"],
  "work.restore": ["At work", "Start again from the response", "r"],
  "work.changes": ["At work", "Show what you changed", "d"],
  "work.experts": ["At work", "Show what the experts would say", "t"],
  "work.original": ["At work", "Show the response as it came", "o"],
  "work.nextchange": ["At work", "Next change or disagreement", "]"],
  "work.lastchange": ["At work", "Previous change or disagreement", "["],
  "work.prompt": ["At work", "Go to the prompt", "1"],
  "work.feedback": ["At work", "Go to the feedback", "3"],
  "work.guide": ["At work", "Go to the guidelines", "g"],
  "review.first": ["In review", "Approve version A", "1"],
  "review.second": ["In review", "Approve version B", "2"],
  "review.third": ["In review", "Approve version C", "3"],
  "review.own": ["In review", "Write a version of your own", "w"],
  "review.reopen": ["In review", "Send back to the queue", "o"],
  "review.discard": ["In review", "Close without a version", "x"],
  "review.comment": ["In review", "Write a comment", "c"],
  "review.submit": ["In review", "Approve your own version", "Mod+Enter"],
  "review.leave": ["In review", "Stop typing", "Escape"],
};

/** The name of the key that an event stands for, such as `j`, `?`, `Mod+Enter`. */
export function nameOf(event) {
  if (["Control", "Shift", "Alt", "Meta", "Dead", "Process"].includes(event.key)) return null;
  const named = event.key.length > 1;
  let key = event.key === " " ? "Space" : event.key;
  // Caps lock and systems differ in the letter's case beside Ctrl; Shift alone says which is meant.
  if (!named && (event.ctrlKey || event.metaKey)) key = event.shiftKey ? key.toUpperCase() : key.toLowerCase();
  return [
    event.ctrlKey || event.metaKey ? "Mod" : null,
    event.altKey ? "Alt" : null,
    event.shiftKey && named ? "Shift" : null,
    key,
  ].filter(Boolean).join("+");
}

/** A key's name as people say it. */
export function spoken(name) {
  const isMac = navigator.platform.startsWith("Mac");
  return name
    .replace("Mod+Z", "Mod+Shift+z")
    .replace("Mod", isMac ? "⌘" : "Ctrl")
    .replace(/\+([a-z])$/, (_, key) => `+${key.toUpperCase()}`)
    .replace("Escape", "Esc")
    .replace("Enter", "↵");
}

/** Writes every key that is drawn for a command anew. */
export function redrawKeys(keymap, root = document) {
  for (const node of root.querySelectorAll("kbd[data-key]")) node.textContent = spoken(keymap.key(node.dataset.key));
}

export class Keymap {
  /** @param changed keys by command, as this person has set them */
  constructor(changed = {}) {
    this.changed = Object.fromEntries(
      Object.entries(changed).filter(([id, key]) => id in COMMANDS && typeof key === "string"),
    );
  }

  key(id) {
    return this.changed[id] ?? COMMANDS[id][2];
  }

  /** The command that has this key already where `id` works, if any. */
  clash(id, key) {
    const where = areas(id);
    return Object.keys(COMMANDS).find(
      (other) => other !== id && this.key(other) === key && areas(other).some((a) => where.includes(a)),
    );
  }

  set(id, key) {
    if (key === COMMANDS[id][2]) delete this.changed[id];
    else this.changed[id] = key;
  }

  /** What `event` asks for among `handlers`. */
  handler(event, handlers) {
    if (event.defaultPrevented || event.isComposing || event.repeat && event.key === "Enter") return null;
    const name = nameOf(event);
    if (name === null || (isTyping(event.target) && !worksInText(name))) return null;
    const id = Object.keys(handlers).find((candidate) => this.key(candidate) === name);
    return id ? handlers[id] : null;
  }
}

const area = (id) => id.split(".")[0];
/** `any` and `list` keys work beside those of every screen. */
const areas = (id) => (area(id) === "any" || area(id) === "list" ? ["any", "list", "work", "review"] : [area(id)]);
const worksInText = (name) => name.includes("Mod+") || name.includes("Alt+") || name === "Escape" || /^F\d+$/.test(name);

function isTyping(target) {
  return target instanceof HTMLTextAreaElement || target instanceof HTMLSelectElement ||
    (target instanceof HTMLInputElement && !["checkbox", "radio", "button"].includes(target.type));
}
