// Keyboard shortcuts of the ranking page. Letters a–i and digits 1–9 stand for responses, or for the
// grades of a pair; the dialog that "?" opens lists the rest. Shortcuts are disabled while someone
// types, and when they are switched off.
import { closest, find, findAll, findOptional } from "../dom.js";
import { digitOf, keyOf } from "../keys.js";

const OFF = "tiebreak-keys-off";
const TYPING = "textarea, select, input:not([type=radio], [type=checkbox])";

/** @typedef {{ index: number, digit: boolean }} ResponseKey the response of a key, and whether the key is a digit */
/** @typedef {keyof typeof KEYS} Verb */
/** @typedef {Record<Verb | "nextDifferences", () => void>} Verbs */

/**
 * The actions of the keys.
 * @typedef {object} Actions
 * @property {Verbs} verbs
 * @property {(key: ResponseKey) => boolean} canKey
 * @property {(key: ResponseKey, shift: boolean) => void} onKey
 * @property {() => void} onPending  a rating changed
 */

export const KEYS = {
  tie: ["="],
  better: ["ArrowLeft"],
  worse: ["ArrowRight"],
  line: ["-", "u"],
  back: ["Backspace", "Delete"],
  undo: ["z"],
  redo: ["y"],
  submit: ["Enter", "s"],
  rate: ["r"],
  note: ["n"],
  next: ["j"],
  previous: ["k"],
  guideline: ["o"],
  layout: ["v"],
  together: ["p"],
  differences: ["m"],
  exact: ["w"],
  whole: ["l"],
  turns: ["t"],
  skip: ["x"],
  help: ["?"],
};

const VERBS = /** @type {Record<string, Verb | undefined>} */ (
  Object.fromEntries(Object.entries(KEYS).flatMap(([verb, keys]) => keys.map((key) => [key, verb])))
);

/**
 * @param {KeyboardEvent} event
 * @returns {ResponseKey | null}
 */
function responseKey(event) {
  const digit = digitOf(event);
  if (digit) return { index: digit - 1, digit: true };
  const key = keyOf(event);
  return /^[a-i]$/.test(key) ? { index: key.charCodeAt(0) - 97, digit: false } : null;
}

/**
 * Rate the criterion in focus with a digit, and move to the next criterion; 0 removes the rating.
 * @param {KeyboardEvent} event
 * @param {() => void} onPending
 */
function rate(event, onPending) {
  const group = closest(event.target, ".rating");
  const ratings = closest(group, ".ratings");
  const digit = VERBS[keyOf(event)] ? null : digitOf(event);
  if (!group || !ratings || digit === null) return false;
  const input = findAll(group, "input", HTMLInputElement).find(({ value }) => Number(value) === digit);
  if (!input) return true;
  input.checked = true;
  const groups = findAll(ratings, ".rating");
  const next = groups[groups.indexOf(group) + 1] ?? group;
  (findOptional(next, "input:checked") ?? input).focus();
  onPending();
  return true;
}

/**
 * @param {KeyboardEvent} event
 * @param {HTMLElement} field
 * @param {Verbs} verbs
 */
function leaveField(event, field, verbs) {
  if (event.key === "Escape") field.blur();
  else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) verbs.submit();
  else return;
  event.preventDefault();
}

/**
 * Return the action of a key when no one is typing; null if the browser handles it.
 * @param {KeyboardEvent} event
 * @param {Actions} actions
 */
function actionOf(event, { verbs, canKey, onKey }) {
  const { target } = event;
  const input = target instanceof HTMLInputElement ? target : null;
  if (event.key === "Enter" && !input && closest(target, "button, a, summary, input")) return null;
  if (input?.type === "radio" && event.key.startsWith("Arrow")) return null;
  if (event.key === "Escape") return () => target instanceof HTMLElement && target.blur();
  const verb = VERBS[keyOf(event)];
  // Named keys come first: on some keyboards "-" is on the key of a digit.
  if (verb === "undo" && event.shiftKey) return verbs.redo;
  if (verb === "differences" && event.shiftKey) return verbs.nextDifferences;
  if (verb) return verbs[verb];
  const response = responseKey(event);
  return response && canKey(response) ? () => onKey(response, event.shiftKey) : null;
}

/** @param {Actions} actions */
export function listen(actions) {
  const toggle = find(document, "#keys-off", HTMLInputElement);
  const showChoice = () => { toggle.checked = localStorage.getItem(OFF) === "1"; };
  showChoice();
  window.addEventListener("pageshow", showChoice); // after "back" the browser fills in an old choice
  toggle.addEventListener("change", () => localStorage.setItem(OFF, toggle.checked ? "1" : "0"));

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || event.altKey || document.querySelector("dialog[open]")) return;
    const field = closest(event.target, TYPING);
    if (field) {
      leaveField(event, field, actions.verbs);
      return;
    }
    const command = event.ctrlKey || event.metaKey;
    if (event.repeat && !event.key.startsWith("Arrow")) return;
    if (toggle.checked && !command) return;
    if (command && !["z", "y", "Enter"].includes(keyOf(event))) return;
    if (command && event.key === "Enter") actions.verbs.submit();
    else if (!rate(event, actions.onPending)) {
      const action = actionOf(event, actions);
      if (!action) return;
      action();
    }
    event.preventDefault();
  });
}
