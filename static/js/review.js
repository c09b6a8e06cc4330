// Makes the ranking page quick: the form works without this script. The page shows one sheet at a
// time; keys, buttons and drops end in the verbs below, and Flow brings the next sheet.
import { reading } from "./reading.js";
import { Clock } from "./review-clock.js";
import { Flow } from "./review-flow.js";
import { listen } from "./review-keys.js";
import { Sheet } from "./review-sheet.js";
import { isTouchOnly } from "./review-words.js";

const HINT = "tiebreak-hint-seen";
const UNDO_NOTE = "sent-note";

function open(id) {
  const dialog = document.getElementById(id);
  if (!dialog.open) dialog.showModal();
}

const announcer = document.getElementById("announcer");
const announce = (text) => (announcer.textContent = text);
const mirror = new MutationObserver(([change]) => announce(change.target.textContent));

const page = {
  sheet: null,
  asked: new Set(),

  clock: new Clock({
    show(seconds, running) {
      const output = document.getElementById("active-time");
      output.textContent = `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
      output.dataset.running = running;
    },
  }),

  /** Put this form in the place of the one that is shown. */
  show(form, { sent }) {
    const old = this.sheet;
    const had = old.form;
    old.close({ sent });
    if (form !== had) {
      this.keepGuideline(had, form);
      const progress = form.querySelector("#review-progress");
      progress.replaceChildren(...had.querySelector("#review-progress").childNodes);
      form.elements.csrfmiddlewaretoken.value = had.elements.csrfmiddlewaretoken.value;
      had.replaceWith(form);
    }
    this.begin(form);
    window.scrollTo(0, 0);
    document.getElementById("main").focus({ preventScroll: true });
    if (sent) announce(isTouchOnly() ? gettext("Sent. The next task is here.") : gettext("Sent; Z takes it back. The next task is here."));
    flow.prefetch();
  },

  begin(form) {
    this.sheet = new Sheet(form, this);
    this.clock.attach(form);
    mirror.disconnect();
    mirror.observe(this.sheet.status, { childList: true, characterData: true, subtree: true });
    const skip = document.getElementById("skip-form");
    if (skip && form.dataset.skipUrl) {
      skip.action = form.dataset.skipUrl;
      skip.reset();
    }
    this.paintSent(flow.last);
    this.showHint(form);
    document.dispatchEvent(new CustomEvent("sheet:shown", { detail: { form } }));
  },

  /** How to rank, for someone who has not ranked here yet and has not put the hint away. */
  showHint(form) {
    const hint = form.querySelector("#first-hint");
    if (hint) hint.hidden = !flow.root.dataset.first || localStorage.getItem(HINT) === "1";
  },

  hideHint() {
    localStorage.setItem(HINT, "1");
    this.showHint(this.sheet.form);
  },

  /** The guideline stays where the reader had scrolled it, while it is the same one. */
  keepGuideline(had, form) {
    const kept = had.querySelector("#guideline");
    const own = form.querySelector("#guideline");
    if (kept && own && kept.dataset.version === own.dataset.version) own.replaceWith(kept);
    else if (kept && !own) form.querySelector(".review-work").before(kept);
  },

  /** What a reply says of the bar. */
  refresh({ progress, csrf }) {
    if (progress) document.getElementById("review-progress").innerHTML = progress;
    for (const token of document.querySelectorAll("[name=csrfmiddlewaretoken]")) token.value = csrf;
  },

  paintSent(last) {
    clearTimeout(this.undoTimer);
    document.getElementById(UNDO_NOTE)?.remove();
    const left = last ? last.until - Date.now() : 0;
    if (left <= 0 || flow.waiting) return;
    const note = document.createElement("span");
    note.id = UNDO_NOTE;
    const button = document.createElement("button");
    Object.assign(button, { type: "button", className: "button-quiet button-small", textContent: gettext("Undo") });
    button.append(" ", Object.assign(document.createElement("kbd"), { textContent: "z" }));
    button.addEventListener("click", () => flow.undo());
    const done = last.skipped ? gettext("Skipped.") : gettext("Sent.");
    note.append(flow.outbox.has(last.entry) ? gettext("On its way.") : done, " ", button);
    this.sheet.form.querySelector("#sent-place").append(note);
    this.undoTimer = setTimeout(() => this.paintSent(flow.last), left);
  },

  undoSent: () => flow.undo(),

  /** A sheet is complete: ask once when its ratings say the opposite, then send it. */
  async send(sheet, event) {
    const key = sheet.form.dataset.draftKey;
    const question = this.asked.has(key) ? null : sheet.contradiction();
    if (question) {
      event.preventDefault();
      if (await this.ask(question)) {
        this.asked.add(key);
        sheet.form.requestSubmit(sheet.form.querySelector("[data-do=submit]"));
      }
      return;
    }
    this.clock.tick();
    if (sheet.form.dataset.slot) {
      event.preventDefault();
      localStorage.setItem(HINT, "1");
      flow.send(sheet);
    } else if (!navigator.onLine) {
      event.preventDefault();
      sheet.say(gettext("There is no network. The revision is kept in this browser; send it again when it is back."), "bad");
    } else if (sheet.form.dataset.sent) {
      event.preventDefault();
      sheet.say(gettext("Sending…"));
    } else sheet.form.dataset.sent = "1";
  },

  ask(question) {
    const dialog = document.getElementById("ask-dialog");
    document.getElementById("ask-text").textContent = question;
    dialog.returnValue = "";
    this.answer?.(false);
    open("ask-dialog");
    return new Promise((answer) => {
      this.answer = answer;
      // A browser may tell of an earlier closing only after the question was asked again.
      dialog.onclose = () => dialog.open || answer(dialog.returnValue === "send");
    });
  },

  /** To wherever the server sends a reviewer now: another task, the changed guideline, or the end. */
  async leave(address = flow.reviewUrl) {
    if (!flow.waiting) await this.sheet.draft.send();
    location.assign(address);
  },
};

const flow = new Flow(page, document.getElementById("outbox-note"));

const onModel = (name) => (...given) => !flow.waiting && page.sheet.model[name]?.(...given);
const onSheet = (name) => (...given) => page.sheet[name](...given);
const verbs = {
  ...reading,
  ...Object.fromEntries(["pick", "tie", "better", "worse", "line", "back"].map((name) => [name, onModel(name)])),
  ...Object.fromEntries(["undo", "redo", "rate", "note", "next", "previous", "guideline", "layout"].map((name) => [name, onSheet(name)])),
  submit: () => page.sheet.form.requestSubmit(page.sheet.form.querySelector("[data-do=submit]")),
  skip: () => document.getElementById("skip-dialog") && open("skip-dialog"),
  help: () => open("help-dialog"),
  hideHint: () => page.hideHint(),
  canKey: ({ index, digit }) => page.sheet.model.canKey(index, digit),
  key: ({ index, digit }, shift) => !flow.waiting && page.sheet.model.key(index, shift, digit),
};

document.documentElement.classList.add("enhanced");
page.begin(document.getElementById("ranking-form"));
const skipDialog = document.getElementById("skip-dialog");
if (skipDialog?.open) {
  skipDialog.close();
  skipDialog.showModal(); // the server refused the note
}
listen({ verbs, onPending: () => page.sheet.draft.save() });
if (page.sheet.form.dataset.renewUrl) {
  const forms = () => [page.sheet.form, flow.atHand].filter(Boolean);
  page.clock.renewEvery(Number(page.sheet.form.dataset.renewSeconds), forms, (form, reason) => {
    if (form === page.sheet.form) page.sheet.onDraft(reason);
    else if (form === flow.atHand) {
      flow.atHand = null;
      flow.prefetch();
    }
  });
  flow.start();
}
window.addEventListener("pageshow", () => flow.waiting || delete page.sheet.form.dataset.sent);
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do], .answer-place");
  if (!button) return;
  if (button.matches(".answer-place")) verbs.pick(button.closest("[data-response]").dataset.response, event.shiftKey);
  else if (button.dataset.do === "guideline") {
    event.preventDefault();
    verbs.guideline();
    document.getElementById("guideline")?.scrollIntoView({ block: "start" });
  } else if (button.dataset.do !== "submit") verbs[button.dataset.do]();
  if (event.detail > 0 && !button.closest("dialog")) button.blur(); // so that Enter submits after a click
});
