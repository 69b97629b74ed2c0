// A draft that is never lost: kept in this browser at once, on the server soon after. What the
// server has confirmed is forgotten here, so texts do not stay on shared machines.

import { Away, Refused, segment } from "./api.js";

const LOCAL_MS = 250;
const SERVER_MS = 900;
const RETRY_MS = 3_000;

export class Draft {
  /**
   * @param tell called with "saving", "saved", "local", "conflict" or "refused", whenever that changes
   */
  constructor(api, person, itemId, kept, tell) {
    this.api = api;
    this.path = `items/${segment(itemId)}/draft`;
    this.slot = `draft:${person}:${itemId}`;
    this.revision = kept.revision ?? 0;
    this.savedAt = kept.saved_at ?? null;
    this.content = { text: kept.text ?? null, comment: kept.comment ?? null };
    this.tell = tell;
    this.timers = {};
    this.isDirty = false;
    this.isClosed = false;
    this.inFlight = null;
    this.#takeLocal();
  }

  /** What this browser kept and the server never got. */
  #takeLocal() {
    const local = readLocal(this.slot);
    if (!local) return;
    if (local.revision === this.revision) {
      this.content = { text: local.text, comment: local.comment };
      this.isDirty = true;
      this.#later();
    } else this.older = local;
  }

  note(content) {
    this.content = content;
    this.isDirty = true;
    this.tell("saving");
    clearTimeout(this.timers.local);
    this.timers.local = setTimeout(() => this.#keepHere(), LOCAL_MS);
    this.#later();
  }

  #later(delay = SERVER_MS) {
    clearTimeout(this.timers.server);
    this.timers.server = setTimeout(() => this.save(), delay);
  }

  #keepHere() {
    if (this.isDirty && !this.isClosed) writeLocal(this.slot, { ...this.content, revision: this.revision });
  }

  /** Sends what is not saved yet; one save at a time. */
  async save() {
    clearTimeout(this.timers.server);
    if (this.inFlight) await this.inFlight;
    if (!this.isDirty || this.isClosed) return;
    this.inFlight = this.#send();
    await this.inFlight;
    this.inFlight = null;
  }

  async #send() {
    this.isDirty = false;
    try {
      const saved = await this.api.put(this.path, asBody(this.content, this.revision));
      this.revision = saved.revision;
      this.savedAt = saved.saved_at;
      if (this.isDirty) return;
      clearTimeout(this.timers.local);
      forget(this.slot);
      this.tell("saved");
    } catch (error) {
      this.isDirty = true;
      this.#keepHere();
      if (this.isClosed) return;
      if (error instanceof Refused && error.status === 409) this.tell("conflict");
      else if (error instanceof Away) {
        this.tell("local");
        this.#later(RETRY_MS);
      } else this.tell("refused", error.message);
    }
  }

  /** Another window saved since: what it has. */
  async theirs() {
    const item = await this.api.get(this.path.replace(/\/draft$/, ""));
    return item.draft;
  }

  /** Goes on from the other window's revision, with this content. */
  over(draft, content) {
    this.revision = draft.revision;
    this.note(content);
  }

  /** Before the page goes away: there is no time for the server. */
  leave() {
    this.#keepHere();
  }

  /** Stops saving; what is not on the server stays here. */
  async close() {
    await this.save();
    this.isClosed = true;
    clearTimeout(this.timers.local);
    clearTimeout(this.timers.server);
  }

  /** The work was handed in: nothing to keep. */
  async drop() {
    this.isClosed = true;
    clearTimeout(this.timers.local);
    clearTimeout(this.timers.server);
    if (this.inFlight) await this.inFlight;
    forget(this.slot);
  }
}

const asBody = ({ text, comment }, revision) => ({
  ...(text === null ? {} : { text }),
  ...(comment ? { comment } : {}),
  revision,
});

function readLocal(slot) {
  try {
    const found = JSON.parse(localStorage.getItem(slot) ?? "null");
    return found && typeof found === "object" ? found : null;
  } catch {
    return null;
  }
}

function writeLocal(slot, value) {
  try {
    localStorage.setItem(slot, JSON.stringify(value));
  } catch {
    // Full or forbidden: the server has the draft a second later.
  }
}

function forget(slot) {
  try {
    localStorage.removeItem(slot);
  } catch {
    // Forbidden: then nothing was kept either.
  }
}
