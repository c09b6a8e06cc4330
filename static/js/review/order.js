// A ranking of three to nine responses: rows of tiers in a ladder, written into one select per response.
import { control, data, find, findAll } from "../dom.js";
import { Ladder } from "./ladder.js";
import { fill, isTouchOnly, listed, ordinal } from "./words.js";
import * as order from "../order.js";

/** @typedef {import("../order.js").Id} Id */
/** @typedef {import("../order.js").Row} Row */
/** @typedef {{ rows: Row[], selected: Id | null }} OrderStep a state that undo restores */

export class Order {
  /**
   * @param {HTMLFormElement} form
   * @param {import("./sheet.js").Sheet} sheet
   */
  constructor(form, sheet) {
    this.form = form;
    this.sheet = sheet;
    /** @type {Row[]} */
    this.rows = [];
    /** @type {Id | null} */
    this.selected = null;
    this.tieNext = false;
    this.cards = sheet.cards;
    this.ties = form.dataset.ties === "yes";
    this.ladder = new Ladder(find(form, "#ladder"), {
      letterOf: (id) => this.letterOf(id), ids: [...this.cards.keys()], verbs: this,
    });
    this.read();
  }

  /** @param {Id} id */
  letterOf(id) {
    return id === order.LINE ? gettext("The line") : data(this.sheet.card(id), "letter");
  }

  // The form and the rows

  /** @param {Id} id */
  rankField(id) {
    return control(this.form, `rank-${id}`);
  }

  read() {
    /** @type {Record<Id, number>} */
    const ranks = {};
    for (const id of this.cards.keys()) ranks[id] = Number(this.rankField(id).value) || 0;
    const cut = control(this.form, "cut").value;
    this.rows = order.fromRanks(ranks, cut === "" ? null : Number(cut));
  }

  write() {
    const { ranks, cut } = order.toRanks(this.rows);
    for (const id of this.cards.keys()) this.rankField(id).value = String(ranks[id] ?? "");
    control(this.form, "cut").value = String(cut ?? "");
  }

  /** @returns {OrderStep} */
  snapshot() {
    return { rows: this.rows, selected: this.selected };
  }

  /** @param {OrderStep} step */
  restore(step) {
    Object.assign(this, step);
  }

  /** @param {OrderStep} step */
  same(step) {
    return JSON.stringify(step.rows) === JSON.stringify(this.rows);
  }

  /**
   * Return the pairs [better, worse] of response ids.
   * @returns {[Id, Id][]}
   */
  beats() {
    const tiers = order.tiersOf(this.rows);
    /** @type {[Id, Id][]} */
    const pairs = [];
    tiers.forEach((tier, index) => {
      for (const better of tier) for (const worse of tiers.slice(index + 1).flat()) pairs.push([better, worse]);
    });
    return pairs;
  }

  missing() {
    const done = new Set(order.placed(this.rows));
    return [...this.cards.keys()].filter((id) => !done.has(id));
  }

  refusal() {
    const rest = this.missing().map((id) => this.letterOf(id));
    if (!rest.length) return null;
    if (this.form.dataset.partial === "yes") {
      if (this.cards.size - rest.length >= 2) return null;
      return gettext("Not sent yet: a ranking compares at least two responses.");
    }
    const text = ngettext(
      "Not sent yet: %(letters)s is not placed. Place every response.",
      "Not sent yet: %(letters)s are not placed. Place every response.",
      rest.length,
    );
    return fill(text, { letters: listed(rest) });
  }

  /** Return the status of a ranking that can be sent, with the responses left out; empty otherwise. */
  ready() {
    const rest = this.missing().map((id) => this.letterOf(id));
    if (!rest.length) return isTouchOnly() ? gettext("All placed: ready to submit.") : gettext("All placed: Enter submits.");
    if (this.refusal()) return "";
    const text = ngettext(
      "%(letters)s is left out and not compared.",
      "%(letters)s are left out and not compared.",
      rest.length,
    );
    return [fill(text, { letters: listed(rest) }), isTouchOnly() ? "" : gettext("Enter submits.")].join(" ").trim();
  }

  /** @param {Id | null} id */
  describe(id) {
    if (!id) return gettext("Line removed.");
    const at = order.rowOf(this.rows, id);
    if (id === order.LINE) return this.describeLine();
    if (at < 0) return fill(gettext("%(letter)s is not placed."), { letter: this.letterOf(id) });
    const line = this.rows.indexOf(order.LINE);
    const values = {
      letter: this.letterOf(id),
      place: ordinal(order.tiersOf(this.rows.slice(0, at)).length),
      mates: listed(order.tierOf(this.rows, id).filter((other) => other !== id).map((other) => this.letterOf(other))),
    };
    if (line >= 0 && line < at) {
      if (values.mates) return fill(gettext("%(letter)s is %(place)s, tied with %(mates)s, unacceptable."), values);
      return fill(gettext("%(letter)s is %(place)s, unacceptable."), values);
    }
    if (values.mates) return fill(gettext("%(letter)s is %(place)s, tied with %(mates)s."), values);
    return fill(gettext("%(letter)s is %(place)s."), values);
  }

  /** Return the unacceptable responses as a sentence; empty without a line. */
  describeLine() {
    const below = order.unacceptable(this.rows);
    if (!below) return "";
    const letters = [...this.cards.keys()].filter((id) => below.includes(id)).map((id) => this.letterOf(id));
    if (letters.length) return fill(gettext("Unacceptable: %(letters)s."), { letters: listed(letters) });
    if (this.missing().length) return gettext("Responses you place next are unacceptable.");
    return gettext("Nothing is unacceptable.");
  }

  paint() {
    const line = this.rows.indexOf(order.LINE);
    for (const [id, card] of this.cards) {
      const at = order.rowOf(this.rows, id);
      const rank = at < 0 ? 0 : order.tiersOf(this.rows.slice(0, at)).length + 1;
      const tied = order.tierOf(this.rows, id).length > 1;
      find(card, ".answer-rank").textContent = rank ? `${tied ? "=" : ""}${rank}` : "";
      card.dataset.placed = rank ? "yes" : "no";
      card.dataset.unacceptable = at >= 0 && line >= 0 && line < at ? "yes" : "no";
      card.dataset.selected = this.selected === id ? "yes" : "no";
      const label = rank
        ? fill(gettext("Select: %(what)s"), { what: this.describe(id) })
        : fill(gettext("Place %(letter)s next"), { letter: this.letterOf(id) });
      find(card, ".answer-place").setAttribute("aria-label", label);
    }
    this.ladder.paint(this);
    find(this.form, "#line-words").textContent = this.describeLine();
    for (const button of findAll(this.form, "[data-needs=selection]", HTMLButtonElement)) button.disabled = !this.selected;
    this.form.querySelector("[data-do=tie]")?.setAttribute("aria-pressed", String(this.tieNext));
  }

  // Actions

  /**
   * @param {Row[]} rows
   * @param {Id | null} selected
   * @param {string} [text]
   */
  change(rows, selected, text) {
    const before = this.snapshot();
    Object.assign(this, { rows, selected, tieNext: false });
    this.sheet.changed(before, text ?? this.describe(selected));
  }

  noTies() {
    this.sheet.say(gettext("This project does not allow ties."));
  }

  /**
   * @param {Id} id
   * @param {boolean} [tied]
   */
  pick(id, tied) {
    if (tied || this.tieNext) this.tieWith(id);
    else if (order.rowOf(this.rows, id) < 0) this.change(order.place(this.rows, id), id);
    else this.select(id);
  }

  /** @param {Id} id */
  tieWith(id) {
    if (!this.ties) this.noTies();
    else this.change(order.tie(this.rows, id, this.selected), id);
  }

  /** @param {Id} id */
  select(id) {
    this.selected = id;
    this.paint();
    this.sheet.say(this.describe(id));
  }

  tie() {
    if (!this.ties) {
      this.noTies();
      return;
    }
    const newest = order.placed(this.rows).at(-1);
    const mate = this.selected && this.selected !== order.LINE ? this.selected : newest;
    this.tieNext = !this.tieNext && newest !== undefined;
    this.paint();
    this.sheet.say(
      this.tieNext && mate !== undefined
        ? fill(gettext("The next response ties with %(letter)s."), { letter: this.letterOf(mate) })
        : gettext("Place a response first, then tie the next one with it."),
    );
  }

  better() {
    if (this.selected) this.change(order.move(this.rows, this.selected, -1, this.ties), this.selected);
  }

  worse() {
    if (this.selected) this.change(order.move(this.rows, this.selected, 1, this.ties), this.selected);
  }

  line() {
    const rows = order.line(this.rows, this.selected, !this.missing().length);
    this.change(rows, rows.includes(order.LINE) ? order.LINE : null);
  }

  back() {
    if (this.selected) this.unplace(this.selected);
  }

  /** @param {Id} id */
  unplace(id) {
    const letter = this.letterOf(id);
    const text = id === order.LINE ? gettext("Line removed.") : fill(gettext("%(letter)s is unplaced."), { letter });
    this.change(order.without(this.rows, id), null, text);
  }

  /**
   * @param {Id} id
   * @param {Id} mate
   */
  drop(id, mate) {
    if (!this.ties) this.change(order.putBefore(this.rows, id, order.rowOf(this.rows, mate)), id);
    else this.change(order.tie(this.rows, id, mate), id);
  }

  /**
   * @param {Id} id
   * @param {number} at
   */
  dropBefore(id, at) {
    this.change(order.putBefore(this.rows, id, at), id);
  }

  /** @param {number} index */
  canKey(index) {
    return index < this.cards.size;
  }

  /**
   * @param {number} index
   * @param {boolean} tied
   */
  key(index, tied) {
    this.pick([...this.cards.keys()][index], tied);
  }
}
