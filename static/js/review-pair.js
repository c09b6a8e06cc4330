// Two responses: one of seven grades from "A is much better" to "B is much better", and whether
// they are acceptable. The radios and the select of the form hold the answer.
import { fill, isTouchOnly } from "./review-words.js";

export class Pair {
  constructor(form, sheet) {
    Object.assign(this, { form, sheet });
    this.cards = sheet.cards;
    this.labels = [...form.querySelectorAll(".grade")];
    this.radios = this.labels.map((label) => label.querySelector("input"));
    form.querySelector("#dock-grades").append(form.querySelector("#grades"));
    this.chosen = this.radios.find((radio) => radio.checked)?.value ?? null;
    sheet.listen(form.querySelector("#grades"), "change", (event) => this.choose(event.target.value));
  }

  get cut() {
    return this.form.elements.cut.value;
  }

  read() {
    this.chosen = this.radios.find((radio) => radio.checked)?.value ?? null;
  }

  write() {
    for (const radio of this.radios) radio.checked = radio.value === this.chosen;
  }

  snapshot() {
    return { chosen: this.chosen, cut: this.cut };
  }

  restore({ chosen, cut }) {
    this.chosen = chosen;
    this.form.elements.cut.value = cut;
  }

  same({ chosen, cut }) {
    return chosen === this.chosen && cut === this.cut;
  }

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
    const label = this.labels.find((one) => one.dataset.grade === this.chosen);
    return label ? fill(gettext("%(words)s."), { words: label.title }) : gettext("Nothing is chosen.");
  }

  lineWords() {
    return this.form.elements.cut.selectedOptions[0].textContent;
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
      card.querySelector(".answer-rank").textContent = this.chosen === null ? "" : won ? "1" : lost ? "2" : "=1";
      const label = fill(gettext("%(letter)s is better, by one step more"), { letter: card.dataset.letter });
      card.querySelector(".answer-place").setAttribute("aria-label", label);
    }
    this.form.querySelector("#pair-line").textContent = this.lineWords();
  }

  choose(value) {
    const before = this.snapshot();
    this.chosen = value;
    this.sheet.changed(before, this.describe());
  }

  /** One step towards a response, skipping what the project does not offer. */
  step(by) {
    const values = this.radios.map((radio) => Number(radio.value));
    const now = this.chosen === null ? null : Number(this.chosen);
    const towards = values.filter((value) => (now === null ? value * by > 0 : (value - now) * by > 0));
    if (towards.length) this.choose(String(by < 0 ? Math.max(...towards) : Math.min(...towards)));
  }

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
    else this.sheet.say(gettext("This project ranks without ties."));
  }

  tieWith() {
    this.tie();
  }

  line() {
    const cuts = ["", "1", "0"];
    const next = cuts[(cuts.indexOf(this.cut) + 1) % cuts.length];
    const before = this.snapshot();
    this.form.elements.cut.value = next;
    this.sheet.changed(before, fill(gettext("%(words)s."), { words: this.lineWords() }));
  }

  back() {
    if (this.chosen !== null) this.choose(null);
  }

  canKey(index, digit) {
    return index < (digit ? this.radios.length : 2);
  }

  /** Digits choose a grade; the letters go one step towards A or B. */
  key(index, tied, digit) {
    if (digit) this.choose(this.radios[index].value);
    else if (tied) this.tie();
    else this.pick([...this.cards.keys()][index]);
  }
}
