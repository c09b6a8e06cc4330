// From one sheet to the next without waiting. While one is read, the next is fetched; on submit it is
// shown at once, and the ranking travels behind it. What the server refuses comes back as a sheet.
import { Notes } from "./review-notes.js";
import { Outbox, freshKey } from "./review-outbox.js";
import { isTouchOnly } from "./review-words.js";

const RETRY = 5000;
const UNDO_FOR = 120_000;

const undoHint = () => (isTouchOnly() ? "" : gettext("Z takes it back."));

export function parsed(html) {
  const holder = document.createElement("template");
  holder.innerHTML = html;
  return holder.content.querySelector("form");
}

export class Flow {
  constructor(page, root) {
    const { outbox: scope, reviewUrl, nextUrl } = root.dataset;
    Object.assign(this, { page, root, reviewUrl, nextUrl, atHand: null, waiting: null, last: null, trouble: null, flight: null });
    this.outbox = new Outbox({ scope, reviewUrl, nextUrl });
    this.notes = new Notes(root);
    window.addEventListener("online", () => this.flush());
    document.addEventListener("visibilitychange", () => this.trouble && this.flush());
  }

  get token() {
    return this.page.sheet.form.elements.csrfmiddlewaretoken.value;
  }

  /** The page was loaded: send what an earlier one left, then prepare the next sheet. */
  start() {
    const undo = document.getElementById("undo-form");
    if (undo) {
      const { seconds, skipped } = undo.dataset;
      this.last = { entry: { name: "" }, undo: undo.action, until: Date.now() + seconds * 1000, skipped: skipped !== undefined };
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
      const answer = await fetch(this.nextUrl);
      const form = answer.ok && !answer.redirected && answer.status === 200 ? parsed(await answer.text()) : null;
      this.keepAtHand(form);
    } catch {
      // No network: a submit then waits for its answer, which brings the next sheet.
    } finally {
      this.fetching = false;
    }
  }

  keepAtHand(form) {
    if (!form || this.atHand || form.dataset.slot === this.page.sheet.form.dataset.slot) return;
    if (this.outbox.waiting().some((entry) => entry.slot === form.dataset.slot)) return;
    if (this.waiting) return;
    this.atHand = form;
    this.page.sheet.form.dataset.next = "ready";
  }

  // Sending

  send(sheet) {
    if (this.waiting) return sheet.say([gettext("It is on its way."), undoHint()].join(" ").trim());
    const entry = this.outbox.add(sheet.form);
    this.last = { entry, form: sheet.form, undo: null, until: Date.now() + UNDO_FOR };
    if (this.atHand) this.page.show(this.takeAtHand(), { sent: true });
    else this.wait(entry, gettext("Sending…"));
    this.flush();
  }

  takeAtHand() {
    const form = this.atHand;
    this.atHand = null;
    return form;
  }

  wait(entry, words) {
    this.waiting = entry;
    this.page.sheet.form.dataset.sent = "1";
    this.page.sheet.say(words);
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
      const { kind, reply } = await this.outbox.send(entry, shown, this.token);
      this.sending = null;
      this.trouble = ["offline", "unanswered", "signed-out"].includes(kind) ? kind : null;
      if (this.trouble) return this.later();
      this.outbox.remove(entry);
      if (kind === "sent") this.sent(entry, reply);
      else if (kind === "refused") this.refused(entry, reply);
      else this.rejected(entry);
    }
  }

  later() {
    this.timer = setTimeout(() => this.flush(), RETRY);
    if (this.waiting) this.page.sheet.say([gettext("Not sent yet: it is kept in this browser."), undoHint()].join(" ").trim(), "warn");
  }

  paint() {
    this.notes.paint({ outbox: this.outbox, trouble: this.trouble, retry: () => this.flush() });
    this.page.paintSent(this.last);
  }

  isWaiting(entry) {
    return this.waiting?.name === entry.name;
  }

  sent(entry, reply) {
    localStorage.removeItem(`tiebreak-draft-${entry.draft}`);
    if (this.last?.entry.name === entry.name) this.last.undo = reply.undo;
    if (reply.go) return this.page.leave(reply.go);
    if (reply.message) this.notes.tell(reply.message);
    const more = this.outbox.waiting().length;
    const form = reply.sheet ? parsed(reply.sheet) : null;
    if (reply.confirm || (this.waiting && !form && !more)) return this.page.leave();
    this.page.refresh(reply);
    if (more) return;
    if (!this.waiting) return this.keepAtHand(form);
    this.waiting = null;
    this.page.show(form, { sent: true });
  }

  /** The reviewer is taken back to that sheet, with what they typed; the one they had comes next. */
  refused(entry, reply) {
    this.last = null;
    this.comeBack(parsed(reply.sheet), gettext("This one was not taken; see what is wrong with it."));
    this.page.sheet.form.querySelector("#errors")?.focus();
  }

  rejected(entry) {
    this.outbox.keep({ ...entry, refused: true });
    if (this.isWaiting(entry)) this.page.leave();
  }

  // Back to a sheet that was sent

  comeBack(form, words) {
    const shown = this.page.sheet.form;
    if (!this.waiting && shown.dataset.slot !== form.dataset.slot) this.atHand = shown;
    this.waiting = null;
    this.page.show(form, { sent: false });
    this.page.sheet.say(words);
  }

  async undo() {
    const last = this.last;
    if (!last || Date.now() > last.until) return this.page.sheet.say(gettext("There is nothing to undo."));
    if (this.sending?.name === last.entry.name) await this.flight;
    if (this.outbox.has(last.entry)) return this.undoUnsent(last);
    if (!last.undo || this.last !== last) return this.page.sheet.say(gettext("This one cannot be taken back any more."));
    this.last = null;
    const reply = await this.askBack(last.undo);
    if (reply?.sheet) {
      this.page.refresh(reply);
      this.comeBack(parsed(reply.sheet), gettext("Taken back. Change it, and send it again."));
    } else if (reply) this.page.sheet.say(Object.values(reply.errors).join(" "), "warn");
    else {
      this.last = last;
      this.page.sheet.say(gettext("There is no network, so it could not be taken back. Try again."), "warn");
    }
    this.paint();
  }

  /** It may have arrived all the same, when only the answer was lost: a new key lets it be changed. */
  undoUnsent(last) {
    this.outbox.remove(last.entry);
    this.last = null;
    last.form.elements.idempotency_key.value = freshKey();
    delete last.form.dataset.sent;
    this.comeBack(last.form, gettext("Taken back before it was sent. Change it, and send it again."));
    this.paint();
  }

  async askBack(url) {
    try {
      const answer = await fetch(url, {
        method: "POST",
        headers: { Accept: "application/json", "X-CSRFToken": this.token },
      });
      return await answer.json();
    } catch {
      return null;
    }
  }
}
