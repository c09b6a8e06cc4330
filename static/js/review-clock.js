// Active time: the page is visible and someone moved, typed or scrolled within the last minute.
// While it is, the reservation of the task is renewed too.
import { post } from "./review-draft.js";

const IDLE = 60_000;
const SIGNS = ["pointermove", "pointerdown", "keydown", "scroll", "wheel", "touchstart"];

export class Clock {
  constructor(form) {
    this.form = form;
    this.seconds = Number(form.elements.active_seconds.value) || 0;
    this.lastSign = Date.now();
    this.lastTick = Date.now();
    for (const sign of SIGNS) {
      window.addEventListener(sign, () => (this.lastSign = Date.now()), { passive: true });
    }
    document.addEventListener("visibilitychange", () => (this.lastTick = Date.now()));
    setInterval(() => this.tick(), 1000);
  }

  get running() {
    return document.visibilityState === "visible" && Date.now() - this.lastSign < IDLE;
  }

  tick() {
    const now = Date.now();
    // A suspended machine must not count: a tick adds two seconds at most.
    if (this.running) this.seconds += Math.min(2, (now - this.lastTick) / 1000);
    this.lastTick = now;
    this.form.elements.active_seconds.value = this.seconds.toFixed(1);
    this.show?.(this.seconds, this.running);
  }

  renewEvery(seconds, onLost) {
    const renew = async () => {
      if (!this.running) return;
      try {
        const answer = await post(this.form, this.form.dataset.renewUrl, {});
        if (answer.status === 409) onLost();
      } catch {
        // No network: the next beat tries again, and the draft is kept in the browser.
      }
    };
    setInterval(renew, seconds * 1000);
    document.addEventListener("visibilitychange", renew);
  }
}
