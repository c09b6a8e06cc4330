// Reading comfortably: long texts folded, earlier turns put away, responses scrolled together, and
// what differs between two of them marked. The page says with "sheet:shown" which sheet it shows;
// keys and buttons end in `reading`. A sheet is complete without all this.
import { restoreExact, toggleExact } from "./exact.js";
import { markDifferences, unmark } from "./reading-marks.js";
import { showStatus } from "./review-words.js";

const TALL = 900; // px; a longer text starts folded
const LONG_TALK = 0.6; // of the window's height; a longer prompt starts with its last turns
const TURNS_KEPT = 2;
const SCROLL = "tiebreak-scroll";

let form;
let pair = null;
const unfolded = new Set(); // by the comparison, and folded again after it

const answers = () => [...form.querySelectorAll(".answer[data-letter]")];
const bodyOf = (answer) => answer.querySelector(".answer-body");
const letterOf = (answer) => answer.dataset.letter;

function say(text) {
  showStatus(form.querySelector("#review-status"), form.querySelector("#line-words"), text);
}

function button(className, label, onClick) {
  const made = document.createElement("button");
  Object.assign(made, { type: "button", className: `button-quiet button-small ${className}`, textContent: label });
  made.addEventListener("click", onClick);
  return made;
}

// Long texts are folded

function fold(body, folded) {
  body.classList.toggle("folded", folded);
  const unfold = body.nextElementSibling;
  unfold.textContent = folded ? gettext("Show all of it") : gettext("Fold it again");
  unfold.setAttribute("aria-expanded", String(!folded));
}

/** A card is as high as its neighbour: what counts is where its text ends. */
const heightOf = (body) =>
  (body.lastElementChild?.getBoundingClientRect().bottom ?? 0) - body.getBoundingClientRect().top;

function foldGiants() {
  const texts = [...form.querySelectorAll(".answer-body, .prompt .message .prose")];
  const giants = texts.filter((body) => !body.dataset.foldable && heightOf(body) >= TALL);
  for (const body of giants) {
    body.dataset.foldable = "yes";
    body.after(button("unfold", "", () => fold(body, !body.classList.contains("folded"))));
    fold(body, true);
  }
}

function whole() {
  const foldable = [...form.querySelectorAll("[data-foldable]")];
  const folded = !foldable.some((body) => body.classList.contains("folded"));
  for (const body of foldable) fold(body, folded);
  if (!foldable.length) say(gettext("No text here is so long that it is folded."));
  else say(folded ? gettext("Long texts are folded.") : gettext("Every text is shown whole."));
}

// Earlier turns of a long conversation are put away

function putTurnsAway() {
  const prompt = form.querySelector(".prompt");
  const turns = prompt ? [...prompt.querySelectorAll(".message")] : [];
  const earlier = turns.slice(0, -TURNS_KEPT);
  if (!earlier.length || prompt.dataset.turns || prompt.scrollHeight < LONG_TALK * innerHeight) return;
  prompt.prepend(button("earlier", "", () => showTurns(prompt, earlier, prompt.dataset.turns === "away")));
  showTurns(prompt, earlier, false);
}

function showTurns(prompt, earlier, shown) {
  const count = earlier.length;
  for (const turn of earlier) turn.hidden = !shown;
  prompt.dataset.turns = shown ? "shown" : "away";
  const toggle = prompt.querySelector(".earlier");
  toggle.setAttribute("aria-expanded", String(shown));
  toggle.textContent = shown
    ? gettext("Put the earlier turns away")
    : interpolate(ngettext("Show %s earlier turn", "Show %s earlier turns", count), [count]);
  if (shown) foldGiants();
}

function turns() {
  const toggle = form.querySelector(".prompt .earlier");
  if (toggle) toggle.click();
  else say(gettext("The whole prompt is shown."));
}

// Responses scroll together, each as far through its own text as the others

const setByUs = new WeakMap();

function follow(event) {
  const leader = event.target;
  if (form.dataset.scroll !== "together" || !leader.matches?.(".answer-body")) return;
  if (Math.abs((setByUs.get(leader) ?? -9) - leader.scrollTop) < 2) return;
  setByUs.delete(leader);
  const share = leader.scrollTop / Math.max(1, leader.scrollHeight - leader.clientHeight);
  for (const body of answers().map(bodyOf)) {
    if (body === leader) continue;
    const top = Math.round(share * (body.scrollHeight - body.clientHeight));
    if (Math.abs(body.scrollTop - top) < 1) continue;
    setByUs.set(body, top);
    body.scrollTop = top;
  }
}

function scrollTogether(on) {
  form.dataset.scroll = on ? "together" : "apart";
  for (const answer of answers()) {
    const body = bodyOf(answer);
    if (!on) for (const name of ["tabindex", "role", "aria-label"]) body.removeAttribute(name);
    else {
      body.tabIndex = 0;
      body.setAttribute("role", "region");
      body.setAttribute("aria-label", interpolate(gettext("Text of %s"), [letterOf(answer)]));
    }
  }
  form.querySelector("[data-do=together]")?.setAttribute("aria-pressed", String(on));
}

function together() {
  const on = form.dataset.scroll !== "together";
  scrollTogether(on);
  localStorage.setItem(SCROLL, form.dataset.scroll);
  say(on ? gettext("The responses scroll together.") : gettext("Each response is shown at its full height."));
}

// What differs between two responses

function pairs() {
  const all = answers();
  return all.flatMap((left, at) => all.slice(at + 1).map((right) => [left, right]));
}

function firstPair() {
  const all = answers();
  const at = Math.max(0, all.findIndex((answer) => answer.dataset.selected === "yes"));
  return [all[at], all[(at + 1) % all.length]];
}

function nextPair() {
  const all = pairs();
  const at = all.findIndex((one) => pair && one.every((answer) => pair.includes(answer)));
  return all[(at + 1) % all.length];
}

function differences() {
  if (pair) stopComparing();
  else compare(firstPair());
}

function nextDifferences() {
  compare(pair ? nextPair() : firstPair());
}

function stopComparing() {
  pair = null;
  clear();
  say(gettext("The marks are gone."));
}

function clear() {
  for (const answer of answers()) {
    unmark(bodyOf(answer));
    delete answer.dataset.compared;
    if (unfolded.delete(answer)) fold(bodyOf(answer), true);
  }
  form.querySelector(".compare")?.remove();
  form.querySelector("[data-do=differences]")?.setAttribute("aria-pressed", "false");
}

function compare([left, right]) {
  if (!right || left === right) return;
  clear();
  pair = [left, right];
  const found = markDifferences(bodyOf(left), bodyOf(right));
  for (const answer of pair) {
    answer.dataset.compared = "yes";
    if (!bodyOf(answer).classList.contains("folded")) continue;
    fold(bodyOf(answer), false);
    unfolded.add(answer);
  }
  form.querySelector("[data-do=differences]")?.setAttribute("aria-pressed", "true");
  const text = describe(found);
  form.querySelector(".answers").before(bar(text));
  say(interpolate(gettext("%s and %s: %s"), [letterOf(left), letterOf(right), text]));
}

function describe({ left, right, same, cut }) {
  if (!left && !right) return gettext("They say the same, word for word.");
  const share = interpolate(gettext("%s % of the words are the same."), [Math.round(100 * same)]);
  return cut ? [share, gettext("Only the first 20,000 words are compared.")].join(" ") : share;
}

function bar(text) {
  const made = document.createElement("div");
  made.className = "compare cluster";
  const label = document.createElement("span");
  label.textContent = gettext("Marked: what one says and the other does not");
  const said = document.createElement("span");
  Object.assign(said, { className: "muted", textContent: text });
  made.append(label, choice(0), choice(1), said, button("compare-end", gettext("Clear highlights"), stopComparing));
  return made;
}

function choice(side) {
  const made = document.createElement("select");
  made.setAttribute("aria-label", side ? gettext("Second response to compare") : gettext("First response to compare"));
  for (const answer of answers()) {
    made.append(new Option(letterOf(answer), letterOf(answer), false, answer === pair[side]));
  }
  made.addEventListener("change", () => {
    const chosen = answers().find((answer) => letterOf(answer) === made.value);
    const other = pair[1 - side] === chosen ? pair[side] : pair[1 - side];
    compare(side ? [other, chosen] : [chosen, other]);
    form.querySelectorAll(".compare select")[side].focus();
  });
  return made;
}

// The texts as they were written

function exact() {
  if (pair) stopComparing();
  const on = toggleExact(form);
  foldGiants();
  say(on ? gettext("Every text is shown exactly as it was written.") : gettext("The texts are formatted."));
}

export const reading = { differences, exact, nextDifferences, together, turns, whole };

document.addEventListener("scroll", follow, { capture: true, passive: true });
document.addEventListener("sheet:shown", (event) => {
  form = event.detail.form;
  pair = null;
  unfolded.clear();
  restoreExact(form);
  scrollTogether(localStorage.getItem(SCROLL) === "together");
  putTurnsAway();
  foldGiants();
  const prompt = form.querySelector(".prompt");
  if (prompt && prompt.scrollHeight > prompt.clientHeight + 1) prompt.tabIndex = 0; // it scrolls on a low page
});
