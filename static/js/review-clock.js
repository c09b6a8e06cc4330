// Active time: the page is visible and someone moved, typed or scrolled within the last minute.
// While it is, the reservations of the task and of the next one are renewed too.
import { post, whyLost } from "./review-draft.js";

const IDLE = 60_000;
const SIGNS = ["pointermove", "pointerdown", "keydown", "scroll", "wheel", "touchstart"];

export class Clock {
  constructor({ show }) {
    Object.assign(this, { show, form: null, seconds: 0, lastSign: Date.now(), lastTick: Date.now() });
    // Capture: a text may scroll inside its own box, and that event does not bubble.
    for (const sign of SIGNS) {
      window.addEventListener(sign, () => (this.lastSign = Date.now()), { passive: true, capture: true });
    }
    document.addEventListener("visibilitychange", () => (this.lastTick = Date.now()));
    setInterval(() => this.tick(), 1000);
  }

  /** Count for this sheet from here on, from what it had before. */
  attach(form) {
    this.form = form;
    this.seconds = Number(form.elements.active_seconds.value) || 0;
    this.lastTick = Date.now();
    this.show(this.seconds, this.running);
  }

  get running() {
    return document.visibilityState === "visible" && Date.now() - this.lastSign < IDLE;
  }

  tick() {
    const now = Date.now();
    // A suspended machine must not count: a tick adds two seconds at most.
    if (this.running) this.seconds += Math.min(2, (now - this.lastTick) / 1000);
    this.lastTick = now;
    if (!this.form) return;
    this.form.elements.active_seconds.value = this.seconds.toFixed(1);
    this.show(this.seconds, this.running);
  }

  /** `forms` gives the sheets to hold; onLost is told which one is no longer reserved, and why. */
  renewEvery(seconds, forms, onLost) {
    const renew = async () => {
      if (!this.running) return;
      for (const form of forms()) {
        try {
          const answer = await post(form, form.dataset.renewUrl, {});
          if (answer.status === 409) onLost(form, await whyLost(answer));
        } catch {
          // No network: the next beat tries again, and the draft is kept in the browser.
        }
      }
    };
    setInterval(renew, seconds * 1000);
    document.addEventListener("visibilitychange", renew);
  }
}
