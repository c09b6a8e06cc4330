// The ranking page, enhanced: its form works without this script. The page shows one sheet at a time;
// keys, buttons and drops call the verbs below, and Flow fetches the next sheet.
import { closest, control, data, find, findAll, findOptional } from "../dom.js";
import { reading } from "../reading/reading.js";
import { Clock } from "./clock.js";
import { Flow } from "./flow.js";
import { listen } from "./keys.js";
import { Sheet } from "./sheet.js";
import { isTouchOnly } from "./words.js";

/** @typedef {import("./flow.js").LastSent} LastSent */

const HINT = "tiebreak-hint-seen";
const UNDO_NOTE = "sent-note";

/** @param {string} id */
const findDialog = (id) => find(document, `#${id}`, HTMLDialogElement);

/** @param {string} id */
function openDialog(id) {
  const dialog = findDialog(id);
  if (!dialog.open) dialog.showModal();
}

const announcer = find(document, "#announcer");
/** @param {string | null} text */
const announce = (text) => (announcer.textContent = text);
const mirror = new MutationObserver(([change]) => announce(change.target.textContent));

/**
 * @param {number} seconds
 * @param {boolean} running
 */
function showTime(seconds, running) {
  const output = find(document, "#active-time");
  output.textContent = `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
  output.dataset.running = String(running);
}

class Page {
  /** @param {HTMLFormElement} form */
  constructor(form) {
    /** @type {Set<string>} drafts whose contradiction was confirmed */
    this.confirmed = new Set();
    this.undoTimer = 0;
    /** @type {((confirmed: boolean) => void) | null} */
    this.answer = null;
    this.clock = new Clock({ show: showTime });
    this.flow = new Flow(this, find(document, "#outbox-note"));
    this.sheet = new Sheet(form, this);
    this.present(form);
    this.sheet.draft.saveEarly();
  }

  /**
   * Replace the sheet on the page.
   * @param {HTMLFormElement} form
   * @param {{ sent: boolean }} how  whether the old one was sent
   */
  show(form, { sent }) {
    const old = this.sheet.form;
    this.sheet.close({ sent });
    findOptional(document, "#skip-form", HTMLFormElement)?.reset();
    if (form !== old) {
      this.keepGuideline(old, form);
      find(form, "#review-progress").replaceChildren(...find(old, "#review-progress").childNodes);
      control(form, "csrfmiddlewaretoken").value = control(old, "csrfmiddlewaretoken").value;
      old.replaceWith(form);
    }
    this.sheet = new Sheet(form, this);
    this.present(form);
    window.scrollTo(0, 0);
    find(document, "#main").focus({ preventScroll: true });
    if (sent) announce(isTouchOnly() ? gettext("Sent. The next task is here.") : gettext("Sent; press Z to undo. The next task is here."));
    this.flow.prefetch();
  }

  /** @param {HTMLFormElement} form */
  present(form) {
    this.clock.attach(form);
    mirror.disconnect();
    mirror.observe(this.sheet.status, { childList: true, characterData: true, subtree: true });
    const skip = findOptional(document, "#skip-form", HTMLFormElement);
    if (skip && form.dataset.skipUrl) skip.action = form.dataset.skipUrl;
    this.paintSent(this.flow.last);
    this.showHint();
    document.dispatchEvent(new CustomEvent("sheet:shown", { detail: { form } }));
  }

  /** Show how to rank to reviewers who have neither ranked here nor dismissed the hint. */
  showHint() {
    const hint = findOptional(this.sheet.form, "#first-hint");
    if (hint) hint.hidden = !this.flow.root.dataset.first || localStorage.getItem(HINT) === "1";
  }

  hideHint() {
    localStorage.setItem(HINT, "1");
    this.showHint();
  }

  /**
   * Keep the scroll position of a guideline that did not change.
   * @param {HTMLFormElement} old
   * @param {HTMLFormElement} form
   */
  keepGuideline(old, form) {
    const kept = findOptional(old, "#guideline");
    const own = findOptional(form, "#guideline");
    if (kept && own && kept.dataset.version === own.dataset.version) own.replaceWith(kept);
    else if (kept && !own) find(form, ".review-work").before(kept);
  }

  /**
   * Take the progress and the fresh token from a reply.
   * @param {import("./outbox.js").BarReply} reply
   */
  refresh({ progress, csrf }) {
    if (progress) find(document, "#review-progress").innerHTML = progress;
    for (const token of findAll(document, "[name=csrfmiddlewaretoken]", HTMLInputElement)) token.value = csrf;
  }

  /** @param {LastSent | null} last */
  paintSent(last) {
    clearTimeout(this.undoTimer);
    document.getElementById(UNDO_NOTE)?.remove();
    const left = last ? last.until - Date.now() : 0;
    if (!last || left <= 0 || this.flow.waiting) return;
    const note = document.createElement("span");
    note.id = UNDO_NOTE;
    const button = document.createElement("button");
    Object.assign(button, { type: "button", className: "button-quiet button-small", textContent: gettext("Undo") });
    button.append(" ", Object.assign(document.createElement("kbd"), { textContent: "z" }));
    button.addEventListener("click", () => this.flow.undo());
    const done = last.skipped ? gettext("Skipped.") : gettext("Sent.");
    note.append(this.flow.isUnsent(last) ? gettext("Sending…") : done, " ", button);
    find(this.sheet.form, "#sent-place").append(note);
    this.undoTimer = setTimeout(() => this.paintSent(this.flow.last), left);
  }

  undoSent() {
    this.flow.undo();
  }

  submit() {
    const { form } = this.sheet;
    form.requestSubmit(find(form, "[data-do=submit]"));
  }

  /**
   * Send a complete sheet; first ask for confirmation, once, if its ratings contradict the ranking.
   * @param {Sheet} sheet
   * @param {Event} event
   */
  async send(sheet, event) {
    const key = data(sheet.form, "draftKey");
    const question = this.confirmed.has(key) ? null : sheet.contradiction();
    if (question) {
      event.preventDefault();
      if (await this.ask(question)) {
        this.confirmed.add(key);
        sheet.form.requestSubmit(find(sheet.form, "[data-do=submit]"));
      }
      return;
    }
    this.clock.tick();
    if (sheet.form.dataset.slot) {
      event.preventDefault();
      localStorage.setItem(HINT, "1");
      this.flow.send(sheet);
    } else if (!navigator.onLine) {
      event.preventDefault();
      sheet.say(gettext("There is no network. The revision is kept in this browser; send it again once you are online."), "bad");
    } else if (sheet.form.dataset.sent) {
      event.preventDefault();
      sheet.say(gettext("Sending…"));
    } else sheet.form.dataset.sent = "1";
  }

  /**
   * Ask whether to send anyway.
   * @param {string} question
   * @returns {Promise<boolean>}
   */
  ask(question) {
    const dialog = findDialog("ask-dialog");
    find(document, "#ask-text").textContent = question;
    dialog.returnValue = "";
    this.answer?.(false);
    openDialog("ask-dialog");
    return new Promise((answer) => {
      this.answer = answer;
      // A browser may report an earlier close event only after the dialog is open again.
      dialog.onclose = () => dialog.open || answer(dialog.returnValue === "send");
    });
  }

  /** Load the page that the server chooses now: another task, the changed guideline, or the end. */
  async leave(address = this.flow.reviewUrl) {
    if (!this.flow.waiting) await this.sheet.draft.send();
    location.assign(address);
  }
}

document.documentElement.classList.add("enhanced"); // first: the heights of texts are measured with these styles
const page = new Page(find(document, "#ranking-form", HTMLFormElement));
const { flow } = page;

/** @param {"tie" | "better" | "worse" | "line" | "back"} name */
const onModel = (name) => () => {
  if (!flow.waiting) page.sheet.model[name]();
};

/** @param {"undo" | "redo" | "rate" | "note" | "next" | "previous" | "guideline" | "layout"} name */
const onSheet = (name) => () => page.sheet[name]();

/** @type {import("./keys.js").Verbs} */
const verbs = {
  ...reading,
  tie: onModel("tie"),
  better: onModel("better"),
  worse: onModel("worse"),
  line: onModel("line"),
  back: onModel("back"),
  undo: onSheet("undo"),
  redo: onSheet("redo"),
  rate: onSheet("rate"),
  note: onSheet("note"),
  next: onSheet("next"),
  previous: onSheet("previous"),
  guideline: onSheet("guideline"),
  layout: onSheet("layout"),
  submit: () => page.submit(),
  skip: () => {
    if (document.getElementById("skip-dialog")) openDialog("skip-dialog");
  },
  help: () => openDialog("help-dialog"),
};

/** @type {Record<string, (() => void) | undefined>} the verbs of buttons, by data-do */
const buttonVerbs = { ...verbs, hideHint: () => page.hideHint() };

/** @param {MouseEvent} event */
function onClick(event) {
  const button = closest(event.target, "[data-do], .answer-place");
  if (!button) return;
  const card = button.matches(".answer-place") ? closest(button, "[data-response]") : null;
  if (card) {
    if (!flow.waiting) page.sheet.model.pick(data(card, "response"), event.shiftKey);
  } else if (button.dataset.do === "guideline") {
    event.preventDefault();
    verbs.guideline();
    document.getElementById("guideline")?.scrollIntoView({ block: "start" });
  } else if (button.dataset.do !== "submit") buttonVerbs[data(button, "do")]?.();
  if (event.detail > 0 && !button.closest("dialog")) button.blur(); // so that Enter submits after a click
}

const skipDialog = findOptional(document, "#skip-dialog", HTMLDialogElement);
if (skipDialog?.open) {
  skipDialog.close();
  skipDialog.showModal(); // the server refused the note
}
listen({
  verbs,
  canKey: ({ index, digit }) => page.sheet.model.canKey(index, digit),
  onKey: ({ index, digit }, shift) => {
    if (!flow.waiting) page.sheet.model.key(index, shift, digit);
  },
  onPending: () => page.sheet.draft.save(),
});
if (page.sheet.form.dataset.renewUrl) {
  const forms = () => [page.sheet.form, flow.nextForm].filter((form) => form !== null);
  page.clock.renewEvery(Number(page.sheet.form.dataset.renewSeconds), forms, (form, reason) => {
    if (form === page.sheet.form) page.sheet.onDraft(reason);
    else if (form === flow.nextForm) {
      flow.nextForm = null;
      flow.prefetch();
    }
  });
  flow.start();
}
window.addEventListener("pageshow", () => {
  if (!flow.waiting) delete page.sheet.form.dataset.sent;
});
document.addEventListener("click", onClick);
