// Settling a dispute on the keyboard. The form works without this script and stays the only truth
// that is sent: the script reads its selects into rows, changes the rows, and writes them back.
import { restoreExact, toggleExact } from "./exact.js";
import { digitOf, keyOf } from "./keys.js";
import { Ladder } from "./review-ladder.js";
import { isTouchOnly, showStatus } from "./review-words.js";
import * as order from "./order.js";

const form = document.getElementById("outcome-form");
const dock = document.getElementById("dock");
const status = document.getElementById("case-status");
const help = document.getElementById("help-dialog");
const cards = new Map([...form.querySelectorAll("[data-response]")].map((card) => [card.dataset.response, card]));
const starts = [...form.querySelectorAll("[data-start]")];
const causes = [...form.querySelectorAll("[name=cause]")];
const letterOf = (id) => (id === order.LINE ? "The line" : cards.get(id).dataset.letter);
const state = { rows: [], selected: null, tieNext: false, past: [] };

function say(text, kind = "") {
  showStatus(status, document.getElementById("line-words"), text, kind);
}

const ready = () => (isTouchOnly() ? "Ready to record." : "Enter records it.");

function readForm() {
  const ranks = {};
  for (const id of cards.keys()) ranks[id] = Number(form.elements[`rank-${id}`].value) || 0;
  const cut = form.elements.cut.value;
  return order.fromRanks(ranks, cut === "" ? null : Number(cut));
}

function writeForm() {
  const { ranks, cut } = order.toRanks(state.rows);
  for (const id of cards.keys()) form.elements[`rank-${id}`].value = ranks[id] ?? "";
  form.elements.cut.value = cut ?? "";
}

const missing = () => {
  const done = new Set(order.placed(state.rows));
  return [...cards.keys()].filter((id) => !done.has(id));
};

/** What the line says of the responses, in words; empty without a line. */
function lineWords() {
  const below = order.unacceptable(state.rows);
  if (!below) return "";
  const letters = [...cards.keys()].filter((id) => below.includes(id)).map(letterOf);
  if (letters.length) return `Unacceptable: ${letters.join(", ")}.`;
  return missing().length ? "The next ones you place are unacceptable." : "Nothing is unacceptable.";
}

function paint() {
  const line = state.rows.indexOf(order.LINE);
  for (const [id, card] of cards) {
    const at = order.rowOf(state.rows, id);
    const rank = at < 0 ? 0 : order.tiersOf(state.rows.slice(0, at)).length + 1;
    card.querySelector(".answer-rank").textContent = rank ? `${state.rows[at].length > 1 ? "=" : ""}${rank}` : "";
    card.dataset.placed = rank ? "yes" : "no";
    card.dataset.unacceptable = at >= 0 && line >= 0 && line < at ? "yes" : "no";
    card.dataset.selected = state.selected === id ? "yes" : "no";
  }
  ladder.paint(state);
  document.getElementById("line-words").textContent = lineWords();
  dock.querySelector("[data-do=tie]").setAttribute("aria-pressed", String(state.tieNext));
  for (const name of ["better", "worse", "back"]) dock.querySelector(`[data-do=${name}]`).disabled = !state.selected;
  dock.querySelector("[data-do=undo]").disabled = !state.past.length;
  dock.querySelector("[data-do=submit]").dataset.ready = wanting() ? "no" : "yes";
}

/** What is still missing, as a sentence; empty when it can be recorded. */
function wanting() {
  const rest = missing().map(letterOf);
  if (rest.length) return `${rest.join(", ")} ${rest.length > 1 ? "have" : "has"} no place yet.`;
  return causes.some((one) => one.checked) ? "" : isTouchOnly() ? "Say why they disagreed." : "Say why they disagreed: R, then 1 to 5.";
}

function change(rows, selected, text = "") {
  if (JSON.stringify(rows) !== JSON.stringify(state.rows)) state.past.push({ rows: state.rows, selected: state.selected });
  Object.assign(state, { rows, selected, tieNext: false });
  writeForm();
  paint();
  say([text, wanting() || ready()].filter(Boolean).join(" "));
}

const verbs = {
  pick(id, tied) {
    if (tied || state.tieNext) change(order.tie(state.rows, id, state.selected), id);
    else if (order.rowOf(state.rows, id) < 0) change(order.place(state.rows, id), id);
    else verbs.select(id);
  },
  select(id) {
    state.selected = id;
    paint();
    say(`${letterOf(id)} is selected.`);
  },
  tie() {
    state.tieNext = !state.tieNext && order.placed(state.rows).length > 0;
    paint();
    const mate = order.placed(state.rows).includes(state.selected) ? state.selected : order.placed(state.rows).at(-1);
    say(state.tieNext ? `The next one ties with ${letterOf(mate)}.` : "Place a response first, then tie the next one with it.");
  },
  start(number) {
    const link = starts[number];
    if (!link) return;
    const said = new URLSearchParams(link.dataset.start);
    const ranks = Object.fromEntries([...cards.keys()].map((id) => [id, Number(said.get(`rank-${id}`)) || 0]));
    const cut = said.get("cut");
    for (const one of starts) one.closest(".said-one").dataset.started = one === link ? "yes" : "no";
    change(order.fromRanks(ranks, cut === "" ? null : Number(cut)), null, `Started from ranking ${number + 1}.`);
  },
  better: () => state.selected && change(order.move(state.rows, state.selected, -1), state.selected),
  worse: () => state.selected && change(order.move(state.rows, state.selected, 1), state.selected),
  line() {
    const rows = order.line(state.rows, state.selected, !missing().length);
    change(rows, rows.includes(order.LINE) ? order.LINE : null);
  },
  back: () => state.selected && change(order.without(state.rows, state.selected), null),
  drop: (id, mate) => change(order.tie(state.rows, id, mate), id),
  dropBefore: (id, at) => change(order.putBefore(state.rows, id, at), id),
  takeBack: (id) => change(order.without(state.rows, id), null),
  undo() {
    const step = state.past.pop();
    if (!step) return;
    Object.assign(state, step);
    writeForm();
    paint();
    say("Undone.");
  },
  cause: () => (causes.find((one) => one.checked) ?? causes[0]).focus(),
  note: () => form.elements.note.focus(),
  submit: () => form.requestSubmit(dock.querySelector("[data-do=submit]")),
  exact: () => say(toggleExact(form) ? "Every text is shown exactly as it was written." : "The texts are formatted."),
  help: () => help.open || help.showModal(),
  follow: (key) => form.querySelector(`[data-key=${key}]`)?.click(),
};

const KEYS = {
  ArrowLeft: verbs.better,
  ArrowRight: verbs.worse,
  "=": verbs.tie,
  "-": verbs.line,
  Backspace: verbs.back,
  Delete: verbs.back,
  z: verbs.undo,
  r: verbs.cause,
  n: verbs.note,
  s: verbs.submit,
  w: verbs.exact,
  x: () => verbs.follow("x"),
  o: () => verbs.follow("o"),
  "?": verbs.help,
};

function verbOf(event) {
  const inCauses = causes.includes(event.target);
  if (event.key === "Escape") return () => event.target.blur();
  if (inCauses && event.key.startsWith("Arrow")) return null;
  if (event.key === "Enter") return event.target.closest("button, a") ? null : verbs.submit;
  const key = keyOf(event);
  if (KEYS[key]) return KEYS[key]; // First: on some keyboards "-" is on a digit's key.
  const digit = digitOf(event);
  if (digit && !event.shiftKey) return inCauses ? () => causes[digit - 1]?.click() : () => verbs.start(digit - 1);
  const letter = /^[a-i]$/.test(key) && [...cards.keys()][key.charCodeAt(0) - 97];
  return letter ? () => verbs.pick(letter, event.shiftKey) : null;
}

function onKey(event) {
  if (event.defaultPrevented || event.isComposing || event.altKey || help.open) return;
  const command = event.ctrlKey || event.metaKey;
  const typing = event.target.closest?.("textarea, select, input:not([type=radio])");
  if (typing && event.key === "Escape") event.target.blur();
  if (command && event.key === "Enter") verbs.submit();
  else if (typing || command) return;
  else {
    const verb = verbOf(event);
    if (!verb) return;
    verb();
  }
  event.preventDefault();
}

const ladder = new Ladder(document.getElementById("ladder"), { letterOf, ids: [...cards.keys()], verbs });
document.documentElement.classList.add("enhanced");
dock.hidden = false;
restoreExact(form);
state.rows = readForm();
paint();
say(wanting() || ready());
document.addEventListener("keydown", onKey);
form.addEventListener("submit", (event) => {
  const text = wanting();
  if (!text) return;
  say(`Not recorded yet. ${text}`, "bad");
  event.preventDefault();
});
for (const one of causes) {
  one.addEventListener("change", () => {
    paint();
    say(wanting() || ready());
  });
}
document.addEventListener("click", (event) => {
  const start = event.target.closest("[data-start]");
  if (start && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    verbs.start(starts.indexOf(start));
    return;
  }
  const button = event.target.closest("[data-do], .answer-place");
  if (!button) return;
  if (button.matches(".answer-place")) verbs.pick(button.closest("[data-response]").dataset.response, event.shiftKey);
  else if (button.dataset.do !== "submit") verbs[button.dataset.do]();
  if (event.detail > 0) button.blur();
});
