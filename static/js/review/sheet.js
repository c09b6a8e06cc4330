// A sheet is the form of one task. The form works without this script, and only its fields are sent.
// Actions change its model, Order or Pair, which is written back into the fields.
import { ROOT, control, data, find, findAll, findOptional } from "../dom.js";
import { Draft } from "./draft.js";
import { Order } from "./order.js";
import { Pair } from "./pair.js";
import { fill, showStatus } from "./words.js";

const NARROW = "(max-width: 64rem)";

/** @typedef {import("./order.js").OrderStep | import("./pair.js").PairStep} Step */

/**
 * The ranking on a sheet, and the actions that change it.
 * @typedef {{
 *   selected: string | null,
 *   paint(): void,
 *   write(): void,
 *   snapshot(): Step,
 *   restore(step: Step): void,
 *   same(step: Step): boolean,
 *   refusal(): string | null,
 *   ready(): string,
 *   beats(): [string, string][],
 *   pick(id: string, tied?: boolean): void,
 *   tie(): void,
 *   better(): void,
 *   worse(): void,
 *   line(): void,
 *   back(): void,
 *   canKey(index: number, digit: boolean): boolean,
 *   key(index: number, tied: boolean, digit: boolean): void,
 * }} Model
 */

/**
 * The interface that a sheet requires of its page.
 * @typedef {{
 *   clock: import("./clock.js").Clock,
 *   send(sheet: Sheet, event: Event): void,
 *   undoSent(): void,
 * }} SheetPage
 */

export class Sheet {
  /**
   * @param {HTMLFormElement} form
   * @param {SheetPage} page
   */
  constructor(form, page) {
    this.form = form;
    this.page = page;
    /** @type {Step[]} */
    this.past = [];
    /** @type {Step[]} */
    this.future = [];
    this.closing = new AbortController();
    this.status = find(form, "#review-status");
    this.rationale = control(form, "rationale");
    this.cards = new Map(findAll(form, "[data-response]").map((card) => [data(card, "response"), card]));
    this.draft = new Draft(form, { clock: page.clock, onState: (state) => this.onDraft(state) });
    /** @type {Model} */
    this.model = form.dataset.kind === "pair" ? new Pair(form, this) : new Order(form, this);
    find(form, "#dock").hidden = false;
    form.dataset.layout = localStorage.getItem("tiebreak-layout") || "side";
    this.listen(form, "input", () => this.draft.save());
    this.listen(this.rationale, "input", () => this.showRationaleError(this.longRationale()));
    this.listen(form, "submit", (event) => this.submit(event));
    if (this.longRationale()) this.showRationaleError(this.longRationale());
    this.setUpGuideline();
    this.paint();
  }

  /**
   * Listen until this sheet is closed.
   * @param {EventTarget} target
   * @param {string} name
   * @param {(event: Event) => void} act
   */
  listen(target, name, act) {
    target.addEventListener(name, act, { signal: this.closing.signal });
  }

  /** @param {string} id */
  card(id) {
    const card = this.cards.get(id);
    if (!card) throw new RangeError(`The sheet has no response ${id}.`);
    return card;
  }

  /** @param {{ sent: boolean }} how */
  close({ sent }) {
    this.closing.abort();
    this.draft.close({ sent });
  }

  /** @param {string} text */
  say(text, kind = "") {
    showStatus(this.status, findOptional(this.form, "#line-words"), text, kind);
  }

  /** @param {import("./draft.js").DraftState} state */
  onDraft(state) {
    /** @type {Partial<Record<typeof state, string>>} */
    const warnings = {
      unsaved: gettext("The draft is kept in this browser only: the server refused it."),
      offline: gettext("No network: your work is kept in this browser and sent once you are online."),
      ranked: gettext("You have already ranked this task in another tab. Reload the page to continue, or submit to replace that ranking."),
      skipped: gettext("You have skipped this task in another tab. Reload the page to continue."),
      withdrawn: gettext("A lead has withdrawn this task. You can still submit your ranking; it is kept."),
      expired: gettext("Your reservation has expired. Your work is still here: submit it, or skip the task."),
    };
    const warning = warnings[state];
    if (warning) this.say(warning, "warn");
  }

  paint() {
    this.model.paint();
    const dock = find(this.form, "#dock");
    find(dock, "[data-do=submit]").dataset.ready = this.model.refusal() ? "no" : "yes";
    find(dock, "[data-do=undo]", HTMLButtonElement).disabled = !this.past.length;
  }

  /**
   * Record a change of the model; undo restores `before`.
   * @param {Step} before
   * @param {string} text
   */
  changed(before, text) {
    if (!this.model.same(before)) {
      this.past.push(before);
      this.future = [];
    }
    this.settle(text);
  }

  /** @param {string} text */
  settle(text) {
    this.model.write();
    this.paint();
    this.draft.save();
    const ready = this.model.ready();
    this.say(text && !this.model.refusal() && ready ? `${text} ${ready}` : text);
  }

  /**
   * Move one step back or forward in the history; return false if there is none.
   * @param {Step[]} from
   * @param {Step[]} to
   * @param {string} text
   */
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
    this.travel(this.future, this.past, gettext("Redone."));
  }

  // Sending

  /** @param {Event} event */
  submit(event) {
    const refusal = this.model.refusal() ?? this.refuseRationale();
    if (refusal) {
      event.preventDefault();
      this.say(refusal, "bad");
    } else this.page.send(this, event);
  }

  /** The length as the server counts it: in code points, without surrounding blanks. */
  get rationaleLength() {
    return [...this.rationale.value.trim()].length;
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

  /** Show at its field why the rationale cannot be sent, and return it; null if it can be sent. */
  refuseRationale() {
    const problem = this.longRationale() || this.shortRationale();
    this.showRationaleError(problem);
    if (!problem) return null;
    this.rationale.focus();
    return problem;
  }

  /** @param {string} text */
  showRationaleError(text) {
    const field = find(this.form, "#rationale-field");
    field.classList.toggle("field-invalid", Boolean(text));
    find(field, "#rationale-error").textContent = text;
    this.rationale.setAttribute("aria-invalid", String(Boolean(text)));
  }

  /**
   * Return the rating of a response on a criterion; 0 without one.
   * @param {string} id
   * @param {string} criterion
   */
  rating(id, criterion) {
    const selector = `[name="rating-${id}-${CSS.escape(criterion)}"]:checked`;
    return Number(findOptional(this.form, selector, HTMLInputElement)?.value || 0);
  }

  /** Return a question about the first pair whose ratings all contradict the ranking, or null. */
  contradiction() {
    const names = [...new Set(findAll(this.form, ".rating").map((group) => data(group, "criterion")))];
    for (const [better, worse] of this.model.beats()) {
      const both = names.filter((name) => this.rating(better, name) && this.rating(worse, name));
      const higher = both.find((name) => this.rating(worse, name) > this.rating(better, name));
      if (!higher || both.some((name) => this.rating(better, name) > this.rating(worse, name))) continue;
      return fill(
        gettext("You rated %(worse)s higher than %(better)s on %(criterion)s, but ranked %(better)s above %(worse)s. Send anyway?"),
        { worse: data(this.card(worse), "letter"), better: data(this.card(better), "letter"), criterion: higher },
      );
    }
    return null;
  }

  // Navigation

  rate() {
    const [first] = this.cards.values();
    const card = this.cards.get(this.model.selected ?? "") ?? first;
    const extras = find(card, ".answer-extras", HTMLDetailsElement);
    extras.open = true;
    (findOptional(extras, "input:checked") ?? findOptional(extras, "input"))?.focus();
  }

  note() {
    this.rationale.focus();
  }

  layout() {
    const stacked = this.form.dataset.layout !== "stacked";
    this.form.dataset.layout = stacked ? "stacked" : "side";
    localStorage.setItem("tiebreak-layout", this.form.dataset.layout);
    this.say(stacked ? gettext("Responses stacked.") : gettext("Responses side by side."));
  }

  /**
   * Go to the next (1) or previous (-1) response.
   * @param {-1 | 1} step
   */
  read(step) {
    const list = [...this.cards.values()];
    const current = list.findIndex((card) => card.contains(document.activeElement));
    const next = list[Math.min(list.length - 1, Math.max(0, current + step))];
    find(next, ".answer-place").focus({ preventScroll: true });
    next.scrollIntoView({ block: "start", behavior: "smooth" });
  }

  next() {
    this.read(1);
  }

  previous() {
    this.read(-1);
  }

  guideline() {
    const details = findOptional(this.form, "#guideline", HTMLDetailsElement);
    if (details) details.open = !details.open;
  }

  setUpGuideline() {
    const details = findOptional(this.form, "#guideline", HTMLDetailsElement);
    if (!details || details.dataset.ready) return;
    details.dataset.ready = "yes";
    if (matchMedia(NARROW).matches) details.open = false;
    details.addEventListener("toggle", () => {
      if (matchMedia(NARROW).matches) return;
      document.cookie = `guideline=${details.open ? "open" : "closed"}; path=${ROOT}; max-age=31536000; samesite=lax`;
    });
  }
}
