// Reading aids: collapse long texts, hide earlier turns, scroll responses together, and highlight the
// differences between two of them. The event "sheet:shown" carries the sheet on the page; keys and
// buttons call `reading`. Sheets work without this script.
import { data, find, findAll, findOptional } from "../dom.js";
import { restoreExact, toggleExact } from "../exact.js";
import { markDifferences, unmark } from "./marks.js";
import { showStatus } from "../review/words.js";

const TALL = 900; // px; a longer text starts collapsed
const LONG_TALK = 0.6; // of the window's height; a longer prompt starts with only its last turns
const MAX_TURNS = 2;
const SCROLL = "tiebreak-scroll";

/** @typedef {[HTMLElement, HTMLElement]} AnswerPair */

let form = document.createElement("form"); // until a sheet is shown
/** @type {AnswerPair | null} the responses being compared */
let pair = null;
/** @type {Set<HTMLElement>} expanded for the comparison, to be collapsed after it */
const unfolded = new Set();

const answers = () => findAll(form, ".answer[data-letter]");
/** @param {HTMLElement} answer */
const bodyOf = (answer) => find(answer, ".answer-body");
/** @param {HTMLElement} answer */
const letterOf = (answer) => data(answer, "letter");

/** @param {string} text */
function say(text) {
  showStatus(find(form, "#review-status"), findOptional(form, "#line-words"), text);
}

/**
 * @param {string} className
 * @param {string} label
 * @param {() => void} onClick
 */
function button(className, label, onClick) {
  const created = document.createElement("button");
  Object.assign(created, { type: "button", className: `button-quiet button-small ${className}`, textContent: label });
  created.addEventListener("click", onClick);
  return created;
}

// Collapse long texts

/**
 * @param {HTMLElement} body
 * @param {boolean} folded
 */
function fold(body, folded) {
  body.classList.toggle("folded", folded);
  const toggle = body.nextElementSibling;
  if (!toggle) return;
  toggle.textContent = folded ? gettext("Show all") : gettext("Collapse");
  toggle.setAttribute("aria-expanded", String(!folded));
}

/**
 * Return the height of the text, not of its card, which is as high as its neighbour.
 * @param {HTMLElement} body
 */
const heightOf = (body) =>
  (body.lastElementChild?.getBoundingClientRect().bottom ?? 0) - body.getBoundingClientRect().top;

function foldGiants() {
  const texts = findAll(form, ".answer-body, .prompt .message .prose");
  const giants = texts.filter((body) => !body.dataset.foldable && heightOf(body) >= TALL);
  for (const body of giants) {
    body.dataset.foldable = "yes";
    body.after(button("unfold", "", () => fold(body, !body.classList.contains("folded"))));
    fold(body, true);
  }
}

function whole() {
  const foldable = findAll(form, "[data-foldable]");
  const folded = !foldable.some((body) => body.classList.contains("folded"));
  for (const body of foldable) fold(body, folded);
  if (!foldable.length) say(gettext("No text here is long enough to collapse."));
  else say(folded ? gettext("Long texts are collapsed.") : gettext("All texts are shown in full."));
}

// Hide earlier turns of a long conversation

function hideTurns() {
  const prompt = findOptional(form, ".prompt");
  if (!prompt) return;
  const earlier = findAll(prompt, ".message").slice(0, -MAX_TURNS);
  if (!earlier.length || prompt.dataset.turns || prompt.scrollHeight < LONG_TALK * innerHeight) return;
  prompt.prepend(button("earlier", "", () => showTurns(prompt, earlier, prompt.dataset.turns === "away")));
  showTurns(prompt, earlier, false);
}

/**
 * @param {HTMLElement} prompt
 * @param {HTMLElement[]} earlier
 * @param {boolean} shown
 */
function showTurns(prompt, earlier, shown) {
  const count = earlier.length;
  for (const turn of earlier) turn.hidden = !shown;
  prompt.dataset.turns = shown ? "shown" : "away";
  const toggle = find(prompt, ".earlier");
  toggle.setAttribute("aria-expanded", String(shown));
  toggle.textContent = shown
    ? gettext("Hide earlier turns")
    : interpolate(ngettext("Show %s earlier turn", "Show %s earlier turns", count), [count]);
  if (shown) foldGiants();
}

function turns() {
  const toggle = findOptional(form, ".prompt .earlier");
  if (toggle) toggle.click();
  else say(gettext("The whole prompt is shown."));
}

// Scroll responses together, each to the same share of its text

/** @type {WeakMap<HTMLElement, number>} positions that `follow` itself set */
const ownPositions = new WeakMap();

/** @param {Event} event */
function follow(event) {
  const leader = event.target;
  if (form.dataset.scroll !== "together" || !(leader instanceof HTMLElement)) return;
  if (!leader.matches(".answer-body")) return;
  if (Math.abs((ownPositions.get(leader) ?? -9) - leader.scrollTop) < 2) return;
  ownPositions.delete(leader);
  const share = leader.scrollTop / Math.max(1, leader.scrollHeight - leader.clientHeight);
  for (const body of answers().map(bodyOf)) {
    if (body === leader) continue;
    const top = Math.round(share * (body.scrollHeight - body.clientHeight));
    if (Math.abs(body.scrollTop - top) < 1) continue;
    ownPositions.set(body, top);
    body.scrollTop = top;
  }
}

/** @param {boolean} on */
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
  localStorage.setItem(SCROLL, on ? "together" : "apart");
  say(on ? gettext("The responses scroll together.") : gettext("Each response is shown at its full height."));
}

// Highlight differences between two responses

function pairs() {
  const all = answers();
  return all.flatMap((left, index) => all.slice(index + 1).map((right) => /** @type {AnswerPair} */ ([left, right])));
}

/** @returns {AnswerPair} */
function firstPair() {
  const all = answers();
  const index = Math.max(0, all.findIndex((answer) => answer.dataset.selected === "yes"));
  return [all[index], all[(index + 1) % all.length]];
}

/** @param {AnswerPair} current */
function pairAfter(current) {
  const all = pairs();
  const index = all.findIndex((other) => other.every((answer) => current.includes(answer)));
  return all[(index + 1) % all.length];
}

function differences() {
  if (pair) stopComparing();
  else compare(firstPair());
}

function nextDifferences() {
  compare(pair ? pairAfter(pair) : firstPair());
}

function stopComparing() {
  pair = null;
  clear();
  say(gettext("Highlights cleared."));
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

/** @param {AnswerPair} answers */
function compare([left, right]) {
  if (left === right) return;
  clear();
  pair = [left, right];
  const differences = markDifferences(bodyOf(left), bodyOf(right));
  for (const answer of pair) {
    answer.dataset.compared = "yes";
    if (!bodyOf(answer).classList.contains("folded")) continue;
    fold(bodyOf(answer), false);
    unfolded.add(answer);
  }
  form.querySelector("[data-do=differences]")?.setAttribute("aria-pressed", "true");
  const text = describe(differences);
  find(form, ".answers").before(bar(pair, text));
  say(interpolate(gettext("%s and %s: %s"), [letterOf(left), letterOf(right), text]));
}

/** @param {ReturnType<typeof markDifferences>} differences */
function describe({ left, right, same, cut }) {
  if (!left && !right) return gettext("The texts are identical.");
  const share = interpolate(gettext("%s% of the words are the same."), [Math.round(100 * same)]);
  return cut ? [share, gettext("Only the first 20,000 words are compared.")].join(" ") : share;
}

/**
 * @param {AnswerPair} compared
 * @param {string} text
 */
function bar(compared, text) {
  const element = document.createElement("div");
  element.className = "compare cluster";
  const label = document.createElement("span");
  label.textContent = gettext("Highlighted: words that the other response lacks");
  const summary = document.createElement("span");
  Object.assign(summary, { className: "muted", textContent: text });
  const end = button("compare-end", gettext("Clear highlights"), stopComparing);
  element.append(label, choice(compared, 0), choice(compared, 1), summary, end);
  return element;
}

/**
 * Return a select for one of the two responses.
 * @param {AnswerPair} compared
 * @param {0 | 1} side
 */
function choice(compared, side) {
  const select = document.createElement("select");
  select.setAttribute("aria-label", side ? gettext("Second response to compare") : gettext("First response to compare"));
  for (const answer of answers()) {
    select.append(new Option(letterOf(answer), letterOf(answer), false, answer === compared[side]));
  }
  select.addEventListener("change", () => {
    const chosen = answers()[select.selectedIndex];
    const otherSide = compared[side === 0 ? 1 : 0];
    const other = otherSide === chosen ? compared[side] : otherSide;
    compare(side ? [other, chosen] : [chosen, other]);
    findAll(form, ".compare select")[side].focus();
  });
  return select;
}

// Show texts as written

function exact() {
  if (pair) stopComparing();
  const on = toggleExact(form);
  foldGiants();
  say(on ? gettext("All texts are shown as written.") : gettext("All texts are formatted."));
}

export const reading = { differences, exact, nextDifferences, together, turns, whole };

document.addEventListener("scroll", follow, { capture: true, passive: true });
document.addEventListener("sheet:shown", (event) => {
  form = event.detail.form;
  pair = null;
  unfolded.clear();
  restoreExact(form);
  scrollTogether(localStorage.getItem(SCROLL) === "together");
  hideTurns();
  foldGiants();
  const prompt = findOptional(form, ".prompt");
  if (prompt && prompt.scrollHeight > prompt.clientHeight + 1) prompt.tabIndex = 0; // it scrolls in a low window
});
