// Move from one sheet to the next without waiting. The next sheet is fetched while the current one is
// read, and shown on submit while the ranking is sent. A refused ranking returns as a sheet.
import { control, findOptional } from "../dom.js";
import { Notes } from "./notes.js";
import { Outbox, freshKey, troubleOf } from "./outbox.js";
import { isTouchOnly } from "./words.js";

const RETRY = 5000;
const UNDO_FOR = 120_000;

const undoHint = () => (isTouchOnly() ? "" : gettext("Press Z to undo."));

/** @typedef {import("./outbox.js").Entry} Entry */
/** @typedef {import("./outbox.js").SentReply} SentReply */
/** @typedef {import("./outbox.js").Trouble} Trouble */
/** @typedef {import("./sheet.js").Sheet} Sheet */

/**
 * The last ranking or skip, which undo reverts. If it was sent before this page was loaded, it has no
 * entry and no form. `undo` is its undo address, once the server has sent one.
 * @typedef {{
 *   entry: Entry | null,
 *   form: HTMLFormElement | null,
 *   undo: string | null | undefined,
 *   until: number,
 *   skipped: boolean,
 * }} LastSent
 */

/**
 * The interface that the flow requires of its page.
 * @typedef {{
 *   sheet: Sheet,
 *   show(form: HTMLFormElement, how: { sent: boolean }): void,
 *   paintSent(last: LastSent | null): void,
 *   refresh(reply: import("./outbox.js").BarReply): void,
 *   leave(address?: string): Promise<void>,
 * }} FlowPage
 */

/**
 * The outcome of an undo. One that "failed" can be tried again; one that is "refused" cannot.
 * @typedef {{ kind: "undone", reply: SentReply & { sheet: string } }
 *   | { kind: "failed" | "refused", text: string }} UndoOutcome
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
   * @param {HTMLElement} root  the element for notes; its data attributes name the addresses
   */
  constructor(page, root) {
    this.page = page;
    this.root = root;
    /** @type {HTMLFormElement | null} the next sheet, fetched but not shown yet */
    this.nextForm = null;
    /** @type {Entry | null} the entry whose reply contains the next sheet */
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

  /** Send rankings that an earlier page left, and prefetch the next sheet. */
  start() {
    const undo = findOptional(document, "#undo-form", HTMLFormElement);
    if (undo) {
      const until = Date.now() + Number(undo.dataset.seconds) * 1000;
      this.last = { entry: null, form: null, undo: undo.action, until, skipped: "skipped" in undo.dataset };
    }
    this.page.paintSent(this.last);
    const own = this.outbox.waiting().find((entry) => entry.slot === this.page.sheet.form.dataset.slot);
    if (own) this.wait(own, gettext("Sending the ranking kept in this browser…"));
    if (this.outbox.entries().length) this.flush();
    this.prefetch();
  }

  async prefetch() {
    if (this.nextForm || this.fetching) return;
    this.fetching = true;
    try {
      const response = await fetch(this.outbox.nextUrl);
      const isSheet = response.status === 200 && !response.redirected;
      this.keepNext(isSheet ? parsed(await response.text()) : null);
    } catch {
      // No network: the submit waits for its reply, which contains the next sheet.
    } finally {
      this.fetching = false;
    }
  }

  /** @param {HTMLFormElement | null} form */
  keepNext(form) {
    if (!form || this.nextForm || form.dataset.slot === this.page.sheet.form.dataset.slot) return;
    if (this.outbox.waiting().some((entry) => entry.slot === form.dataset.slot)) return;
    if (this.waiting) return;
    this.nextForm = form;
    this.page.sheet.form.dataset.next = "ready";
  }

  // Sending

  /** @param {Sheet} sheet */
  send(sheet) {
    if (this.waiting) {
      sheet.say([gettext("It is being sent."), undoHint()].join(" ").trim());
      return;
    }
    const entry = this.outbox.add(sheet.form);
    this.last = { entry, form: sheet.form, undo: null, until: Date.now() + UNDO_FOR, skipped: false };
    const next = this.nextForm;
    this.nextForm = null;
    if (next) this.page.show(next, { sent: true });
    else this.wait(entry, gettext("Sending…"));
    this.flush();
  }

  /**
   * Keep the sheet on the page until the server answers its entry.
   * @param {Entry} entry
   * @param {string} text
   */
  wait(entry, text) {
    this.waiting = entry;
    this.page.sheet.form.dataset.sent = "1";
    this.page.sheet.say(text);
  }

  /** Send the entries one at a time, oldest first, so that no ranking overtakes an earlier one. */
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
    if (reply.message) this.notes.add(reply.message);
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
    } else this.keepNext(form);
  }

  /**
   * Return to a refused sheet, with its contents; the current sheet comes next.
   * @param {string} html
   */
  refused(html) {
    this.last = null;
    this.returnTo(parsed(html), gettext("This ranking was refused; see the errors below."));
    findOptional(this.page.sheet.form, "#errors")?.focus();
  }

  /** @param {Entry} entry */
  rejected(entry) {
    this.outbox.keep({ ...entry, refused: true });
    if (this.waiting?.name === entry.name) this.page.leave();
  }

  // Return to a sheet that was sent

  /**
   * @param {HTMLFormElement | null} form
   * @param {string} text
   */
  returnTo(form, text) {
    if (!form) {
      this.page.leave();
      return;
    }
    const shown = this.page.sheet.form;
    if (!this.waiting && shown.dataset.slot !== form.dataset.slot) this.nextForm = shown;
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
      this.page.sheet.say(gettext("This can no longer be undone."));
      return;
    }
    this.last = null;
    const outcome = await this.requestUndo(last.undo);
    if (outcome.kind === "undone") {
      this.page.refresh(outcome.reply);
      this.returnTo(parsed(outcome.reply.sheet), gettext("Undone. Change your ranking, then send it again."));
    } else {
      if (outcome.kind === "failed") this.last = last;
      this.page.sheet.say(outcome.text, "warn");
    }
    this.paint();
  }

  /**
   * Undo an unsent ranking. It may have arrived if only the reply was lost: a new key allows it to be
   * changed.
   * @param {Entry} entry
   * @param {HTMLFormElement} form
   */
  undoUnsent(entry, form) {
    this.outbox.remove(entry);
    this.last = null;
    control(form, "idempotency_key").value = freshKey();
    delete form.dataset.sent;
    this.returnTo(form, gettext("Undone before it was sent. Change your ranking, then send it."));
    this.paint();
  }

  /**
   * Ask the server to undo a ranking or a skip.
   * @param {string} url
   * @returns {Promise<UndoOutcome>}
   */
  async requestUndo(url) {
    let response;
    try {
      response = await fetch(url, {
        method: "POST",
        headers: { Accept: "application/json", "X-CSRFToken": this.token },
      });
    } catch {
      return { kind: "failed", text: gettext("There is no network, so nothing was undone. Try again.") };
    }
    if (response.redirected) return { kind: "failed", text: gettext("You are signed out.") };
    const reply = await response.json().catch(() => null);
    if (response.ok && reply?.sheet) return { kind: "undone", reply };
    if (reply?.errors) return { kind: "refused", text: Object.values(reply.errors).join(" ") };
    if (response.status === 404) return { kind: "refused", text: gettext("This can no longer be undone.") };
    return { kind: "failed", text: gettext("The server did not undo this. Reload the page, then try again.") };
  }
}
