// Active time: the page is visible and someone moved, typed or scrolled within the last minute. The
// reservations of this task and the next are renewed during active time only.
import { control, data } from "../dom.js";
import { post, whyLost } from "./draft.js";

const IDLE = 60_000;
const SIGNS = ["pointermove", "pointerdown", "keydown", "scroll", "wheel", "touchstart"];

export class Clock {
  /** @param {{ show: (seconds: number, running: boolean) => void }} options */
  constructor({ show }) {
    this.show = show;
    /** @type {HTMLFormElement | null} */
    this.form = null;
    this.seconds = 0;
    this.lastSign = Date.now();
    this.lastTick = Date.now();
    // Capture: a text may scroll inside its own box, and that event does not bubble.
    for (const sign of SIGNS) {
      window.addEventListener(sign, () => (this.lastSign = Date.now()), { passive: true, capture: true });
    }
    document.addEventListener("visibilitychange", () => (this.lastTick = Date.now()));
    setInterval(() => this.tick(), 1000);
  }

  /**
   * Count time for this sheet, starting from its earlier active time.
   * @param {HTMLFormElement} form
   */
  attach(form) {
    this.form = form;
    this.seconds = Number(control(form, "active_seconds").value) || 0;
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
    control(this.form, "active_seconds").value = this.seconds.toFixed(1);
    this.show(this.seconds, this.running);
  }

  /**
   * Renew the reservations of `forms()` regularly; call `onLost` with a form that is no longer reserved,
   * and the reason.
   * @param {number} seconds
   * @param {() => HTMLFormElement[]} forms
   * @param {(form: HTMLFormElement, reason: import("./draft.js").LostReason) => void} onLost
   */
  renewEvery(seconds, forms, onLost) {
    const renew = async () => {
      if (!this.running) return;
      for (const form of forms()) {
        try {
          const response = await post(form, data(form, "renewUrl"), {});
          if (response.status === 409) onLost(form, await whyLost(response));
        } catch {
          // No network: the next interval tries again, and the draft is kept in the browser.
        }
      }
    };
    setInterval(renew, seconds * 1000);
    document.addEventListener("visibilitychange", renew);
  }
}
