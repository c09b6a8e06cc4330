// A comparison of two responses: one of seven grades from "A is much better" to "B is much better",
// and whether they are acceptable. The radio buttons and the select of the form hold the state.
import { data, find, findAll } from "../dom.js";
import { fill, isTouchOnly } from "./words.js";

/** @typedef {{ chosen: string | null, cut: string }} PairStep a state that undo restores */

export class Pair {
  /**
   * @param {HTMLFormElement} form
   * @param {import("./sheet.js").Sheet} sheet
   */
  constructor(form, sheet) {
    this.form = form;
    this.sheet = sheet;
    this.selected = null; // both responses are judged together
    this.cards = sheet.cards;
    this.cutField = find(form, "[name=cut]", HTMLSelectElement);
    this.labels = findAll(form, ".grade");
    this.radios = this.labels.map((label) => find(label, "input", HTMLInputElement));
    const grades = find(form, "#grades");
    find(form, "#dock-grades").append(grades);
    this.chosen = this.checkedGrade();
    sheet.listen(grades, "change", () => this.choose(this.checkedGrade()));
  }

  get cut() {
    return this.cutField.value;
  }

  checkedGrade() {
    return this.radios.find((radio) => radio.checked)?.value ?? null;
  }

  read() {
    this.chosen = this.checkedGrade();
  }

  write() {
    for (const radio of this.radios) radio.checked = radio.value === this.chosen;
  }

  /** @returns {PairStep} */
  snapshot() {
    return { chosen: this.chosen, cut: this.cut };
  }

  /** @param {PairStep} step */
  restore({ chosen, cut }) {
    this.chosen = chosen;
    this.cutField.value = cut;
  }

  /** @param {PairStep} step */
  same({ chosen, cut }) {
    return chosen === this.chosen && cut === this.cut;
  }

  /**
   * Return the pair [better, worse] of response ids; empty for a tie.
   * @returns {[string, string][]}
   */
  beats() {
    const grade = Number(this.chosen ?? 0);
    const [a, b] = this.cards.keys();
    return grade === 0 ? [] : [grade < 0 ? [a, b] : [b, a]];
  }

  refusal() {
    return this.chosen === null ? gettext("Not sent yet: say which response is better, and by how much.") : null;
  }

  ready() {
    if (this.chosen === null) return "";
    return isTouchOnly() ? gettext("Ready to submit.") : gettext("Enter submits.");
  }

  describe() {
    const label = this.labels.find(({ dataset }) => dataset.grade === this.chosen);
    return label ? fill(gettext("%(words)s."), { words: label.title }) : gettext("Nothing selected.");
  }

  lineWords() {
    return this.cutField.selectedOptions[0].text;
  }

  paint() {
    const grade = Number(this.chosen ?? 0);
    let side = 0;
    for (const card of this.cards.values()) {
      side = side ? 1 : -1;
      const won = this.chosen !== null && Math.sign(grade) === side;
      const lost = this.chosen !== null && Math.sign(grade) === -side;
      card.dataset.placed = this.chosen === null ? "no" : "yes";
      card.dataset.unacceptable = this.cut === "0" || (this.cut === "1" && lost) ? "yes" : "no";
      card.dataset.selected = won ? "yes" : "no";
      find(card, ".answer-rank").textContent = this.chosen === null ? "" : won ? "1" : lost ? "2" : "=1";
      const label = fill(gettext("%(letter)s is better by one more step"), { letter: data(card, "letter") });
      find(card, ".answer-place").setAttribute("aria-label", label);
    }
    find(this.form, "#pair-line").textContent = this.lineWords();
  }

  /** @param {string | null} value */
  choose(value) {
    const before = this.snapshot();
    this.chosen = value;
    this.sheet.changed(before, this.describe());
  }

  /**
   * Go one step towards a response, skipping grades that the project does not offer.
   * @param {-1 | 1} by
   */
  step(by) {
    const values = this.radios.map((radio) => Number(radio.value));
    const now = this.chosen === null ? null : Number(this.chosen);
    const towards = values.filter((value) => (now === null ? value * by > 0 : (value - now) * by > 0));
    if (towards.length) this.choose(String(by < 0 ? Math.max(...towards) : Math.min(...towards)));
  }

  /** @param {string} id */
  pick(id) {
    this.step(id === [...this.cards.keys()][0] ? -1 : 1);
  }

  better() {
    this.step(-1);
  }

  worse() {
    this.step(1);
  }

  tie() {
    if (this.radios.some((radio) => radio.value === "0")) this.choose("0");
    else this.sheet.say(gettext("This project does not allow ties."));
  }

  tieWith() {
    this.tie();
  }

  line() {
    const cuts = ["", "1", "0"];
    const next = cuts[(cuts.indexOf(this.cut) + 1) % cuts.length];
    const before = this.snapshot();
    this.cutField.value = next;
    this.sheet.changed(before, fill(gettext("%(words)s."), { words: this.lineWords() }));
  }

  back() {
    if (this.chosen !== null) this.choose(null);
  }

  /**
   * @param {number} index
   * @param {boolean} digit
   */
  canKey(index, digit) {
    return index < (digit ? this.radios.length : 2);
  }

  /**
   * Choose a grade with a digit, or move one step towards A or B with a letter.
   * @param {number} index
   * @param {boolean} tied
   * @param {boolean} digit
   */
  key(index, tied, digit) {
    if (digit) this.choose(this.radios[index].value);
    else if (tied) this.tie();
    else this.pick([...this.cards.keys()][index]);
  }
}
