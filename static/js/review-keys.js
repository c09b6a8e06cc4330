// Every key of the ranking page. Letters a–i and digits 1–9 mean responses; the rest is listed in
// the dialog that "?" opens. Nothing here runs while someone types, nor when keys are switched off.
const OFF = "tiebreak-keys-off";
const TYPING = "textarea, select, input:not([type=radio], [type=checkbox])";

const PLAIN = {
  "=": "tie",
  ArrowLeft: "better",
  ArrowRight: "worse",
  "-": "line",
  u: "line",
  Backspace: "back",
  Delete: "back",
  z: "undo",
  y: "redo",
  s: "submit",
  r: "rate",
  n: "note",
  o: "guideline",
  v: "layout",
  x: "skip",
  "?": "help",
};

// What static/js/reading.js does; it listens for these names.
const READING = { m: "differences", p: "together", t: "turns", l: "whole" };

function read(name, event) {
  const detail = { name, next: event.shiftKey };
  document.dispatchEvent(new CustomEvent("reading:do", { detail }));
}

function responseIndex(event) {
  const digit = /^(?:Digit|Numpad)([1-9])$/.exec(event.code);
  if (digit) return Number(digit[1]) - 1;
  return /^[a-i]$/i.test(event.key) ? event.key.toLowerCase().charCodeAt(0) - 97 : -1;
}

/** Digits rate the criterion in focus and go on to the next one; 0 takes the rating away. */
function rate(event, onPending) {
  const group = event.target.closest(".rating");
  if (!group || !/^[0-9]$/.test(event.key)) return false;
  const input = [...group.querySelectorAll("input")].find((one) => (one.value || "0") === event.key);
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
  if (event.key === "Enter" && (!onControl || inRadios || event.target.matches("input"))) return verbs.submit;
  if (inRadios && event.key.startsWith("Arrow")) return null;
  if (event.key === "Escape") return () => event.target.blur();
  if (event.key === "j" || event.key === "k") return () => verbs.read(event.key === "j" ? 1 : -1);
  const reading = READING[event.key.toLowerCase()];
  if (reading) return () => read(reading, event);
  const name = PLAIN[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  const id = verbs.letter(responseIndex(event));
  // Named keys go first: on some keyboards "-" lies on a digit.
  if (!name && id) return () => verbs.pick(id, event.shiftKey);
  if (name === "undo" && event.shiftKey) return verbs.redo;
  return name ? verbs[name] : null;
}

export function listen({ form, verbs, onPending }) {
  const toggle = document.getElementById("keys-off");
  toggle.checked = localStorage.getItem(OFF) === "1";
  toggle.addEventListener("change", () => localStorage.setItem(OFF, toggle.checked ? "1" : "0"));

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || event.altKey || document.querySelector("dialog[open]")) return;
    if (event.target.closest?.(TYPING)) return leaveField(event, verbs);
    const command = event.ctrlKey || event.metaKey;
    if (event.repeat && !event.key.startsWith("Arrow")) return;
    if (toggle.checked && !command) return;
    if (command && !["z", "y", "Enter"].includes(event.key)) return;
    if (command && event.key === "Enter") verbs.submit();
    else if (!rate(event, onPending)) {
      const verb = act(event, verbs);
      if (!verb) return;
      verb();
    }
    event.preventDefault();
  });
}
