// Every key of the ranking page. Letters a–i and digits 1–9 mean responses, or grades of a pair; the
// rest is listed in the dialog that "?" opens. Nothing here runs while someone types, nor when keys
// are switched off.
import { digitOf, keyOf } from "./keys.js";

const OFF = "tiebreak-keys-off";
const TYPING = "textarea, select, input:not([type=radio], [type=checkbox])";

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

const VERBS = Object.fromEntries(Object.entries(KEYS).flatMap(([verb, keys]) => keys.map((key) => [key, verb])));

/** Which response a key means, and whether it was a digit. */
function meant(event) {
  const digit = digitOf(event);
  if (digit) return { index: digit - 1, digit: true };
  const key = keyOf(event);
  return /^[a-i]$/.test(key) ? { index: key.charCodeAt(0) - 97, digit: false } : null;
}

/** Digits rate the criterion in focus and go on to the next one; 0 takes the rating away. */
function rate(event, onPending) {
  const group = event.target.closest(".rating");
  const digit = VERBS[keyOf(event)] ? null : digitOf(event);
  if (!group || digit === null) return false;
  const input = [...group.querySelectorAll("input")].find((one) => Number(one.value) === digit);
  if (!input) return true;
  input.checked = true;
  const groups = [...group.closest(".ratings").querySelectorAll(".rating")];
  const next = groups[groups.indexOf(group) + 1] ?? group;
  (next.querySelector("input:checked") ?? input).focus();
  onPending();
  return true;
}

function leaveField(event, verbs) {
  if (event.key === "Escape") event.target.blur();
  else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) verbs.submit();
  else return;
  event.preventDefault();
}

function act(event, verbs) {
  const onControl = event.target.closest("button, a, summary, input");
  const inRadios = event.target.matches("input[type=radio]");
  if (event.key === "Enter" && onControl && !event.target.matches("input")) return null;
  if (inRadios && event.key.startsWith("Arrow")) return null;
  if (event.key === "Escape") return () => event.target.blur();
  const verb = VERBS[keyOf(event)];
  // Named keys go first: on some keyboards "-" lies on a digit.
  if (verb === "undo" && event.shiftKey) return verbs.redo;
  if (verb === "differences" && event.shiftKey) return verbs.nextDifferences;
  if (verb) return verbs[verb];
  const response = meant(event);
  return response && verbs.canKey(response) ? () => verbs.key(response, event.shiftKey) : null;
}

export function listen({ verbs, onPending }) {
  const toggle = document.getElementById("keys-off");
  toggle.checked = localStorage.getItem(OFF) === "1";
  toggle.addEventListener("change", () => localStorage.setItem(OFF, toggle.checked ? "1" : "0"));

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || event.altKey || document.querySelector("dialog[open]")) return;
    if (event.target.closest?.(TYPING)) return leaveField(event, verbs);
    const command = event.ctrlKey || event.metaKey;
    if (event.repeat && !event.key.startsWith("Arrow")) return;
    if (toggle.checked && !command) return;
    if (command && !["z", "y", "Enter"].includes(keyOf(event))) return;
    if (command && event.key === "Enter") verbs.submit();
    else if (!rate(event, onPending)) {
      const verb = act(event, verbs);
      if (!verb) return;
      verb();
    }
    event.preventDefault();
  });
}
