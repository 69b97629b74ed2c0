// The time left on a claim: counted down from what the server said, renewed while somebody works.

import { Away, segment } from "./api.js";

const WARN_S = 120;

export class Lease {
  /** @param show called each second with `{left, total, state}`; state "held", "soon", "over" or "lost" */
  constructor(api, claim, show) {
    this.api = api;
    this.path = `claims/${segment(claim.id)}/renew`;
    this.total = claim.lease_s;
    this.show = show;
    this.isBusy = false;
    this.wasActive = false;
    this.lostBecause = null;
    this.#until(claim);
    this.timer = setInterval(() => this.#tick(), 1000);
    this.#tick();
  }

  /** Server time is only ever compared with server time; this clock only counts on from there. */
  #until({ lease_until: until, now }) {
    this.endsAt = Date.now() + (until - now) * 1000;
  }

  left() {
    return Math.max(0, (this.endsAt - Date.now()) / 1000);
  }

  /** Somebody works: the lease will be renewed when a third is gone. */
  touch() {
    this.wasActive = true;
  }

  #tick() {
    const left = this.left();
    if (this.lostBecause) return this.show({ left: 0, total: this.total, state: "lost", why: this.lostBecause });
    if (this.wasActive && left < (2 / 3) * this.total && left > 0) this.renew();
    const warn = Math.min(WARN_S, this.total / 4);
    this.show({ left, total: this.total, state: left <= 0 ? "over" : left < warn ? "soon" : "held" });
  }

  /** A full lease from now on; true where the server gave it. */
  async renew() {
    if (this.isBusy) return false;
    this.isBusy = true;
    this.wasActive = false;
    try {
      this.#until(await this.api.post(this.path, {}));
      this.lostBecause = null;
      this.#tick();
      return true;
    } catch (error) {
      if (error instanceof Away) this.wasActive = true;
      else this.lostBecause = error.message;
      return false;
    } finally {
      this.isBusy = false;
    }
  }

  close() {
    clearInterval(this.timer);
  }
}

export const clock = (seconds) => {
  const whole = Math.ceil(seconds);
  const minutes = Math.floor(whole / 60);
  return minutes >= 60
    ? `${Math.floor(minutes / 60)} h ${minutes % 60} min`
    : `${minutes}:${String(whole % 60).padStart(2, "0")}`;
};
