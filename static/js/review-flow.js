// From one sheet to the next without waiting. While one is read, the next is fetched; on submit it is
// shown immediately, while the ranking is sent. What the server refuses comes back as a sheet.
import { control, findOptional } from "./dom.js";
import { Notes } from "./review-notes.js";
import { Outbox, freshKey, troubleOf } from "./review-outbox.js";
import { isTouchOnly } from "./review-words.js";

const RETRY = 5000;
const UNDO_FOR = 120_000;

const undoHint = () => (isTouchOnly() ? "" : gettext("Z takes it back."));

/** @typedef {import("./review-outbox.js").Entry} Entry */
/** @typedef {import("./review-outbox.js").SentReply} SentReply */
/** @typedef {import("./review-outbox.js").Trouble} Trouble */
/** @typedef {import("./review-sheet.js").Sheet} Sheet */

/**
 * The ranking or skip that undo takes back. One from before the page was loaded has no entry and no
 * form; `undo` is the address that undoes it, once the server has given one.
 * @typedef {{
 *   entry: Entry | null,
 *   form: HTMLFormElement | null,
 *   undo: string | null | undefined,
 *   until: number,
 *   skipped: boolean,
 * }} LastSent
 */

/**
 * What the flow needs from the page.
 * @typedef {{
 *   sheet: Sheet,
 *   show(form: HTMLFormElement, how: { sent: boolean }): void,
 *   paintSent(last: LastSent | null): void,
 *   refresh(reply: import("./review-outbox.js").BarReply): void,
 *   leave(address?: string): Promise<void>,
 * }} FlowPage
 */

/**
 * Return the form in the HTML of a sheet, or null.
 * @param {string} html
 */
export function parsed(html) {
  const holder = document.createElement("template");
  holder.innerHTML = html;
  return findOptional(holder.content, "form", HTMLFormElement);
}

export class Flow {
  /**
   * @param {FlowPage} page
   * @param {HTMLElement} root  the place for notes; its data attributes name the addresses
   */
  constructor(page, root) {
    this.page = page;
    this.root = root;
    /** @type {HTMLFormElement | null} the next sheet, fetched and not shown yet */
    this.atHand = null;
    /** @type {Entry | null} the entry whose answer brings the next sheet */
    this.waiting = null;
    /** @type {Entry | null} the entry that is being sent */
    this.sending = null;
    /** @type {LastSent | null} */
    this.last = null;
    /** @type {Trouble | null} */
    this.trouble = null;
    /** @type {Promise<void> | null} */
    this.flight = null;
    this.fetching = false;
    this.timer = 0;
    this.outbox = new Outbox(root);
    this.notes = new Notes(root);
    window.addEventListener("online", () => this.flush());
    document.addEventListener("visibilitychange", () => {
      if (this.trouble) this.flush();
    });
  }

  get reviewUrl() {
    return this.outbox.reviewUrl;
  }

  get token() {
    return control(this.page.sheet.form, "csrfmiddlewaretoken").value;
  }

  /** The page was loaded: send what an earlier one left, then prepare the next sheet. */
  start() {
    const undo = findOptional(document, "#undo-form", HTMLFormElement);
    if (undo) {
      const until = Date.now() + Number(undo.dataset.seconds) * 1000;
      this.last = { entry: null, form: null, undo: undo.action, until, skipped: "skipped" in undo.dataset };
    }
    this.page.paintSent(this.last);
    const own = this.outbox.waiting().find((entry) => entry.slot === this.page.sheet.form.dataset.slot);
    if (own) this.wait(own, gettext("Sending what was kept in this browser…"));
    if (this.outbox.entries().length) this.flush();
    this.prefetch();
  }

  async prefetch() {
    if (this.atHand || this.fetching) return;
    this.fetching = true;
    try {
      const response = await fetch(this.outbox.nextUrl);
      const found = response.status === 200 && !response.redirected;
      this.keepAtHand(found ? parsed(await response.text()) : null);
    } catch {
      // No network: a submit then waits for its answer, which brings the next sheet.
    } finally {
      this.fetching = false;
    }
  }

  /** @param {HTMLFormElement | null} form */
  keepAtHand(form) {
    if (!form || this.atHand || form.dataset.slot === this.page.sheet.form.dataset.slot) return;
    if (this.outbox.waiting().some((entry) => entry.slot === form.dataset.slot)) return;
    if (this.waiting) return;
    this.atHand = form;
    this.page.sheet.form.dataset.next = "ready";
  }

  // Sending

  /** @param {Sheet} sheet */
  send(sheet) {
    if (this.waiting) {
      sheet.say([gettext("It is on its way."), undoHint()].join(" ").trim());
      return;
    }
    const entry = this.outbox.add(sheet.form);
    this.last = { entry, form: sheet.form, undo: null, until: Date.now() + UNDO_FOR, skipped: false };
    const next = this.atHand;
    this.atHand = null;
    if (next) this.page.show(next, { sent: true });
    else this.wait(entry, gettext("Sending…"));
    this.flush();
  }

  /**
   * Keep the sheet on the page until its entry is answered.
   * @param {Entry} entry
   * @param {string} text
   */
  wait(entry, text) {
    this.waiting = entry;
    this.page.sheet.form.dataset.sent = "1";
    this.page.sheet.say(text);
  }

  /** One at a time, oldest first, so that a ranking never overtakes the one before it. */
  flush() {
    this.flight ??= this.sendAll().finally(() => {
      this.flight = null;
      this.paint();
    });
    return this.flight;
  }

  async sendAll() {
    clearTimeout(this.timer);
    for (let entry = this.outbox.waiting()[0]; entry; entry = this.outbox.waiting()[0]) {
      const shown = this.waiting ? "" : this.page.sheet.form.dataset.slot;
      this.sending = entry;
      const outcome = await this.outbox.send(entry, shown ?? "", this.token);
      this.sending = null;
      this.trouble = troubleOf(outcome);
      if (this.trouble) {
        this.retryLater();
        return;
      }
      this.outbox.remove(entry);
      if (outcome.kind === "sent") this.sent(entry, outcome.reply);
      else if (outcome.kind === "refused") this.refused(outcome.reply.sheet);
      else this.rejected(entry);
    }
  }

  retryLater() {
    this.timer = setTimeout(() => this.flush(), RETRY);
    if (this.waiting) this.page.sheet.say([gettext("Not sent yet: it is kept in this browser."), undoHint()].join(" ").trim(), "warn");
  }

  paint() {
    this.notes.paint({ outbox: this.outbox, trouble: this.trouble, retry: () => this.flush() });
    this.page.paintSent(this.last);
  }

  /** @param {LastSent} last */
  isUnsent(last) {
    return last.entry !== null && this.outbox.has(last.entry);
  }

  /**
   * @param {Entry} entry
   * @param {SentReply} reply
   */
  sent(entry, reply) {
    localStorage.removeItem(`tiebreak-draft-${entry.draft}`);
    if (this.last?.entry?.name === entry.name) this.last.undo = reply.undo;
    if (reply.go) {
      this.page.leave(reply.go);
      return;
    }
    if (reply.message) this.notes.tell(reply.message);
    const more = this.outbox.waiting().length > 0;
    const form = reply.sheet ? parsed(reply.sheet) : null;
    if (reply.confirm || (this.waiting && !form && !more)) {
      this.page.leave();
      return;
    }
    this.page.refresh(reply);
    if (more) return;
    if (this.waiting && form) {
      this.waiting = null;
      this.page.show(form, { sent: true });
    } else this.keepAtHand(form);
  }

  /**
   * The reviewer returns to that sheet, with what they typed; the one they had comes next.
   * @param {string} html
   */
  refused(html) {
    this.last = null;
    this.comeBack(parsed(html), gettext("This one was not taken; see what is wrong with it."));
    findOptional(this.page.sheet.form, "#errors")?.focus();
  }

  /** @param {Entry} entry */
  rejected(entry) {
    this.outbox.keep({ ...entry, refused: true });
    if (this.waiting?.name === entry.name) this.page.leave();
  }

  // Back to a sheet that was sent

  /**
   * @param {HTMLFormElement | null} form
   * @param {string} text
   */
  comeBack(form, text) {
    if (!form) {
      this.page.leave();
      return;
    }
    const shown = this.page.sheet.form;
    if (!this.waiting && shown.dataset.slot !== form.dataset.slot) this.atHand = shown;
    this.waiting = null;
    this.page.show(form, { sent: false });
    this.page.sheet.say(text);
  }

  async undo() {
    const last = this.last;
    if (!last || Date.now() > last.until) {
      this.page.sheet.say(gettext("There is nothing to undo."));
      return;
    }
    if (last.entry && this.sending?.name === last.entry.name) await this.flight;
    if (last.entry && last.form && this.outbox.has(last.entry)) {
      this.undoUnsent(last.entry, last.form);
      return;
    }
    if (!last.undo || this.last !== last) {
      this.page.sheet.say(gettext("This one cannot be taken back any more."));
      return;
    }
    this.last = null;
    const reply = await this.askBack(last.undo);
    if (reply && "sheet" in reply) {
      this.page.refresh(reply);
      this.comeBack(parsed(reply.sheet), gettext("Taken back. Change it, and send it again."));
    } else if (reply) this.page.sheet.say(Object.values(reply.errors).join(" "), "warn");
    else {
      this.last = last;
      this.page.sheet.say(gettext("There is no network, so it could not be taken back. Try again."), "warn");
    }
    this.paint();
  }

  /**
   * It may have arrived anyway, when only the answer was lost: a new key lets it be changed.
   * @param {Entry} entry
   * @param {HTMLFormElement} form
   */
  undoUnsent(entry, form) {
    this.outbox.remove(entry);
    this.last = null;
    control(form, "idempotency_key").value = freshKey();
    delete form.dataset.sent;
    this.comeBack(form, gettext("Taken back before it was sent. Change it, and send it again."));
    this.paint();
  }

  /**
   * Undo on the server, and return its reply; null without a network.
   * @param {string} url
   * @returns {Promise<(SentReply & { sheet: string }) | { errors: Record<string, string> } | null>}
   */
  async askBack(url) {
    try {
      const response = await fetch(url, {
        method: "POST",
        headers: { Accept: "application/json", "X-CSRFToken": this.token },
      });
      return await response.json();
    } catch {
      return null;
    }
  }
}
