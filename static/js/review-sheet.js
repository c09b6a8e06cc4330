// One sheet: the form of one task. The form works without this script, and stays the only truth that
// is sent; what a reviewer does goes through a model of it, Order or Pair, and is written back.
import { Draft } from "./review-draft.js";
import { Order } from "./review-order.js";
import { Pair } from "./review-pair.js";
import { fill, showStatus } from "./review-words.js";

const NARROW = "(max-width: 64rem)";

export class Sheet {
  constructor(form, page) {
    Object.assign(this, { form, page, past: [], future: [], closing: new AbortController() });
    this.status = form.querySelector("#review-status");
    this.cards = new Map([...form.querySelectorAll("[data-response]")].map((card) => [card.dataset.response, card]));
    this.draft = new Draft(form, { clock: page.clock, onState: (name) => this.onDraft(name) });
    this.model = form.dataset.kind === "pair" ? new Pair(form, this) : new Order(form, this);
    form.querySelector("#dock").hidden = false;
    form.dataset.layout = localStorage.getItem("tiebreak-layout") || "side";
    this.listen(form, "input", () => this.draft.save());
    this.listen(form.elements.rationale, "input", () => this.showRationaleError(this.longRationale()));
    this.listen(form, "submit", (event) => this.submit(event));
    this.setUpGuideline();
    this.paint();
  }

  /** As long as this sheet is shown. */
  listen(target, name, act) {
    target.addEventListener(name, act, { signal: this.closing.signal });
  }

  close({ sent }) {
    this.closing.abort();
    this.draft.close({ sent });
  }

  say(text, kind = "") {
    showStatus(this.status, this.form.querySelector("#line-words"), text, kind);
  }

  onDraft(name) {
    const words = {
      unsaved: gettext("The draft is kept in this browser only: the server did not take it."),
      offline: gettext("No network: your work is kept in this browser and sent when it returns."),
      ranked: gettext("You have sent this task already, in another tab. Reload the page to go on, or submit to replace that ranking."),
      skipped: gettext("You have skipped this task, in another tab. Reload the page to go on."),
      withdrawn: gettext("A lead has withdrawn this task. You can still submit what you have; it is kept."),
      expired: gettext("Your reservation ran out. Everything is still here; submit it, or skip the task."),
    };
    if (words[name]) this.say(words[name], "warn");
  }

  paint() {
    this.model.paint();
    const dock = this.form.querySelector("#dock");
    dock.querySelector("[data-do=submit]").dataset.ready = this.model.refusal() ? "no" : "yes";
    dock.querySelector("[data-do=undo]").disabled = !this.past.length;
  }

  /** The model changed; `before` is what an undo comes back to. */
  changed(before, text) {
    if (!this.model.same(before)) {
      this.past.push(before);
      this.future = [];
    }
    this.settle(text);
  }

  settle(text) {
    this.model.write();
    this.paint();
    this.draft.save();
    const ready = this.model.ready();
    this.say(text && !this.model.refusal() && ready ? `${text} ${ready}` : text);
  }

  travel(from, to, text) {
    const step = from.pop();
    if (!step) return false;
    to.push(this.model.snapshot());
    this.model.restore(step);
    this.settle(text);
    return true;
  }

  undo() {
    if (!this.travel(this.past, this.future, gettext("Undone."))) this.page.undoSent();
  }

  redo() {
    this.travel(this.future, this.past, gettext("Done again."));
  }

  // Sending

  submit(event) {
    const refusal = this.model.refusal() ?? this.refuseRationale();
    if (refusal) {
      event.preventDefault();
      this.say(refusal, "bad");
    } else this.page.send(this, event);
  }

  /** Counted as the server counts: by code point, without blanks around the text. */
  get rationaleLength() {
    return [...this.form.elements.rationale.value.trim()].length;
  }

  shortRationale() {
    const shortest = Number(this.form.dataset.minRationale);
    const written = this.rationaleLength;
    if (written >= shortest) return "";
    return fill(gettext("Not sent yet: say why in at least %(shortest)s characters; so far there are %(written)s."), { shortest, written });
  }

  longRationale() {
    const longest = Number(this.form.dataset.longestRationale);
    const written = this.rationaleLength;
    if (written <= longest) return "";
    return fill(gettext("A rationale has at most %(longest)s characters; this one has %(written)s. Shorten it."), { longest, written });
  }

  /** Why the rationale cannot be sent, shown at its field too; null when it can. */
  refuseRationale() {
    const problem = this.longRationale() || this.shortRationale();
    this.showRationaleError(problem);
    if (!problem) return null;
    this.form.elements.rationale.focus();
    return problem;
  }

  showRationaleError(text) {
    const field = this.form.querySelector("#rationale-field");
    field.classList.toggle("field-invalid", Boolean(text));
    field.querySelector("#rationale-error").textContent = text;
    this.form.elements.rationale.setAttribute("aria-invalid", String(Boolean(text)));
  }

  /** The sentence of the first pair that is ranked one way and rated, on the whole, the other. */
  contradiction() {
    const rated = (id, name) => Number(this.form.querySelector(`[name="rating-${id}-${CSS.escape(name)}"]:checked`)?.value || 0);
    const names = [...new Set([...this.form.querySelectorAll(".rating")].map((one) => one.dataset.criterion))];
    for (const [better, worse] of this.model.beats()) {
      const both = names.filter((name) => rated(better, name) && rated(worse, name));
      const higher = both.find((name) => rated(worse, name) > rated(better, name));
      if (!higher || both.some((name) => rated(better, name) > rated(worse, name))) continue;
      return fill(
        gettext("You rated %(worse)s higher than %(better)s on %(criterion)s, but ranked %(better)s above %(worse)s. Send anyway?"),
        { worse: this.cards.get(worse).dataset.letter, better: this.cards.get(better).dataset.letter, criterion: higher },
      );
    }
    return null;
  }

  // Moving about

  rate() {
    const card = this.cards.get(this.model.selected) ?? this.cards.values().next().value;
    const extras = card.querySelector(".answer-extras");
    extras.open = true;
    (extras.querySelector("input:checked") ?? extras.querySelector("input"))?.focus();
  }

  note() {
    this.form.elements.rationale.focus();
  }

  layout() {
    const stacked = this.form.dataset.layout !== "stacked";
    this.form.dataset.layout = stacked ? "stacked" : "side";
    localStorage.setItem("tiebreak-layout", this.form.dataset.layout);
    this.say(stacked ? gettext("Responses below each other.") : gettext("Responses side by side."));
  }

  read(step) {
    const list = [...this.cards.values()];
    const at = list.indexOf(document.activeElement?.closest("[data-response]"));
    const next = list[Math.min(list.length - 1, Math.max(0, at + step))];
    next.querySelector(".answer-place").focus({ preventScroll: true });
    next.scrollIntoView({ block: "start", behavior: "smooth" });
  }

  next() {
    this.read(1);
  }

  previous() {
    this.read(-1);
  }

  guideline() {
    const details = this.form.querySelector("#guideline");
    if (details) details.open = !details.open;
  }

  setUpGuideline() {
    const details = this.form.querySelector("#guideline");
    if (!details || details.dataset.ready) return;
    details.dataset.ready = "yes";
    if (matchMedia(NARROW).matches) details.open = false;
    details.addEventListener("toggle", () => {
      if (matchMedia(NARROW).matches) return;
      document.cookie = `guideline=${details.open ? "open" : "closed"}; path=/; max-age=31536000; samesite=lax`;
    });
  }
}
