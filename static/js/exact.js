// Switch all texts of the page between formatted and exact. The exact texts come with the page. A
// text too long to be formatted has no exact copy, because it is always shown as written.
import { find, findAll } from "./dom.js";

const EXACT = "tiebreak-exact";

/** @type {WeakMap<HTMLElement, ChildNode[]>} */
const formatted = new WeakMap();

/**
 * @param {HTMLElement} body
 * @param {HTMLElement} source
 */
function showExact(body, source) {
  formatted.set(body, [...body.childNodes]);
  body.replaceChildren(...source.cloneNode(true).childNodes);
  body.classList.add("exact-text");
}

/** @param {HTMLElement} body */
function showFormatted(body) {
  body.replaceChildren(...(formatted.get(body) ?? []));
  formatted.delete(body);
  body.classList.remove("exact-text");
}

/**
 * Show the texts of this form as they were written (`on`) or formatted.
 * @param {HTMLFormElement} form
 * @param {boolean} on
 */
function show(form, on) {
  for (const source of findAll(form, ".exact > .exact-text")) {
    const card = source.closest(".message, .answer");
    if (!card) continue;
    const body = find(card, ".reading");
    if (!source.hasChildNodes() || on === formatted.has(body)) continue;
    if (on) showExact(body, source);
    else showFormatted(body);
  }
  form.dataset.exact = on ? "yes" : "no";
  form.querySelector("[data-do=exact]")?.setAttribute("aria-pressed", String(on));
}

/**
 * Apply the reader's last choice to a form that is shown for the first time.
 * @param {HTMLFormElement} form
 */
export function restoreExact(form) {
  show(form, localStorage.getItem(EXACT) === "1");
}

/**
 * Switch between exact and formatted texts, and return whether they are now exact.
 * @param {HTMLFormElement} form
 */
export function toggleExact(form) {
  const on = form.dataset.exact !== "yes";
  show(form, on);
  localStorage.setItem(EXACT, on ? "1" : "0");
  return on;
}
