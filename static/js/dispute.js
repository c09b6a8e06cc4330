// Keyboard controls of the dispute page. The form works without this script, and only its fields are
// sent: the script reads the selects into rows, changes the rows, and writes them back.
import { closest, control, data, find, findAll } from "./dom.js";
import { restoreExact, toggleExact } from "./exact.js";
import { digitOf, keyOf } from "./keys.js";
import { Ladder } from "./review/ladder.js";
import { isTouchOnly, showStatus } from "./review/words.js";
import * as order from "./order.js";

/** @typedef {import("./order.js").Id} Id */
/** @typedef {import("./order.js").Row} Row */
/** @typedef {{ rows: Row[], selected: Id | null }} Step a state that undo restores */

const form = find(document, "#outcome-form", HTMLFormElement);
const dock = find(document, "#dock");
const status = find(document, "#case-status");
const lineStatus = find(document, "#line-words");
const help = find(document, "#help-dialog", HTMLDialogElement);
const submitButton = find(dock, "[data-do=submit]", HTMLButtonElement);
const cards = new Map(findAll(form, "[data-response]").map((card) => [data(card, "response"), card]));
const ids = [...cards.keys()];
const starts = findAll(form, "[data-start]");
const causes = findAll(form, "[name=cause]", HTMLInputElement);
/** @type {Step & { tieNext: boolean, past: Step[] }} */
const state = { rows: [], selected: null, tieNext: false, past: [] };

/** @param {Id} id */
function letterOf(id) {
  const card = cards.get(id);
  return card ? data(card, "letter") : "The line";
}

/** @param {string} text */
function say(text, kind = "") {
  showStatus(status, lineStatus, text, kind);
}

const ready = () => (isTouchOnly() ? "Ready to save." : "Press Enter to save.");

/**
 * Return the rows of an order, given a function that returns the value of each field.
 * @param {(field: string) => string | null} valueOf
 */
function rowsOf(valueOf) {
  const ranks = Object.fromEntries(ids.map((id) => [id, Number(valueOf(`rank-${id}`)) || 0]));
  const cut = valueOf("cut");
  return order.fromRanks(ranks, cut === null || cut === "" ? null : Number(cut));
}

function writeForm() {
  const { ranks, cut } = order.toRanks(state.rows);
  for (const id of ids) control(form, `rank-${id}`).value = String(ranks[id] ?? "");
  control(form, "cut").value = String(cut ?? "");
}

const missing = () => {
  const done = new Set(order.placed(state.rows));
  return ids.filter((id) => !done.has(id));
};

/** Return the unacceptable responses as a sentence; empty without a line. */
function lineWords() {
  const below = order.unacceptable(state.rows);
  if (!below) return "";
  const letters = ids.filter((id) => below.includes(id)).map(letterOf);
  if (letters.length) return `Unacceptable: ${letters.join(", ")}.`;
  return missing().length ? "Responses you place next are unacceptable." : "Nothing is unacceptable.";
}

function paint() {
  const line = state.rows.indexOf(order.LINE);
  for (const [id, card] of cards) {
    const at = order.rowOf(state.rows, id);
    const rank = at < 0 ? 0 : order.tiersOf(state.rows.slice(0, at)).length + 1;
    const tied = order.tierOf(state.rows, id).length > 1;
    find(card, ".answer-rank").textContent = rank ? `${tied ? "=" : ""}${rank}` : "";
    card.dataset.placed = rank ? "yes" : "no";
    card.dataset.unacceptable = at >= 0 && line >= 0 && line < at ? "yes" : "no";
    card.dataset.selected = state.selected === id ? "yes" : "no";
  }
  ladder.paint(state);
  lineStatus.textContent = lineWords();
  dockButton("tie").setAttribute("aria-pressed", String(state.tieNext));
  for (const name of ["better", "worse", "back"]) dockButton(name).disabled = !state.selected;
  dockButton("undo").disabled = !state.past.length;
  submitButton.dataset.ready = problem() ? "no" : "yes";
}

/** @param {string} name */
const dockButton = (name) => find(dock, `[data-do=${name}]`, HTMLButtonElement);

/** Return what is still missing, as a sentence; empty when the outcome can be saved. */
function problem() {
  const rest = missing().map(letterOf);
  if (rest.length) return `${rest.join(", ")} ${rest.length > 1 ? "are" : "is"} not placed yet.`;
  return causes.some((cause) => cause.checked) ? "" : isTouchOnly() ? "Choose the cause." : "Choose the cause: R, then 1 to 5.";
}

/**
 * @param {Row[]} rows
 * @param {Id | null} selected
 */
function change(rows, selected, text = "") {
  if (JSON.stringify(rows) !== JSON.stringify(state.rows)) state.past.push({ rows: state.rows, selected: state.selected });
  Object.assign(state, { rows, selected, tieNext: false });
  writeForm();
  paint();
  say([text, problem() || ready()].filter(Boolean).join(" "));
}

/**
 * Move the selected response one step, if one is selected.
 * @param {-1 | 1} step
 */
function moveSelected(step) {
  if (state.selected) change(order.move(state.rows, state.selected, step), state.selected);
}

function removeSelected() {
  if (state.selected) change(order.without(state.rows, state.selected), null);
}

/**
 * Start from one of the rankings.
 * @param {number} index
 */
function startFrom(index) {
  const link = starts[index];
  if (!link) return;
  const fields = new URLSearchParams(data(link, "start"));
  for (const other of starts) {
    const card = closest(other, ".starting-ranking");
    if (card) card.dataset.started = other === link ? "yes" : "no";
  }
  change(rowsOf((name) => fields.get(name)), null, `Started from ranking ${index + 1}.`);
}

/** @type {import("./review/ladder.js").LadderVerbs} */
const ladderVerbs = {
  pick(id, tied) {
    if (tied || state.tieNext) change(order.tie(state.rows, id, state.selected), id);
    else if (order.rowOf(state.rows, id) < 0) change(order.place(state.rows, id), id);
    else ladderVerbs.select(id);
  },
  select(id) {
    state.selected = id;
    paint();
    say(`${letterOf(id)} is selected.`);
  },
  drop: (id, mate) => change(order.tie(state.rows, id, mate), id),
  dropBefore: (id, index) => change(order.putBefore(state.rows, id, index), id),
  unplace: (id) => change(order.without(state.rows, id), null),
};

const verbs = {
  tie() {
    const placed = order.placed(state.rows);
    const mate = placed.find((id) => id === state.selected) ?? placed.at(-1);
    state.tieNext = !state.tieNext && mate !== undefined;
    paint();
    say(state.tieNext && mate ? `The next response ties with ${letterOf(mate)}.` : "Place a response first, then tie the next one with it.");
  },
  better: () => moveSelected(-1),
  worse: () => moveSelected(1),
  line() {
    const rows = order.line(state.rows, state.selected, !missing().length);
    change(rows, rows.includes(order.LINE) ? order.LINE : null);
  },
  back: () => removeSelected(),
  undo() {
    const step = state.past.pop();
    if (!step) return;
    Object.assign(state, step);
    writeForm();
    paint();
    say("Undone.");
  },
  cause: () => (causes.find((cause) => cause.checked) ?? causes[0]).focus(),
  note: () => control(form, "note").focus(),
  submit: () => form.requestSubmit(submitButton),
  exact: () => say(toggleExact(form) ? "All texts are shown as written." : "All texts are formatted."),
  help() {
    if (!help.open) help.showModal();
  },
};

/** @type {Record<string, (() => void) | undefined>} by data-do */
const buttonVerbs = verbs;

/** @param {string} key */
const followLink = (key) => findAll(form, `[data-key=${key}]`).at(0)?.click();

/** @type {Record<string, (() => void) | undefined>} */
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
  x: () => followLink("x"),
  o: () => followLink("o"),
  "?": verbs.help,
};

/**
 * Return the action of a key; null if the browser handles it.
 * @param {KeyboardEvent} event
 */
function actionOf(event) {
  const { target } = event;
  const inCauses = causes.some((cause) => cause === target);
  if (event.key === "Escape") return () => target instanceof HTMLElement && target.blur();
  if (inCauses && event.key.startsWith("Arrow")) return null;
  if (event.key === "Enter") return closest(target, "button, a") ? null : verbs.submit;
  const key = keyOf(event);
  if (KEYS[key]) return KEYS[key]; // First: on some keyboards "-" is on a digit's key.
  const digit = digitOf(event);
  if (digit && !event.shiftKey) return inCauses ? () => causes[digit - 1]?.click() : () => startFrom(digit - 1);
  const id = /^[a-i]$/.test(key) && ids[key.charCodeAt(0) - 97];
  return id ? () => ladderVerbs.pick(id, event.shiftKey) : null;
}

/** @param {KeyboardEvent} event */
function onKey(event) {
  if (event.defaultPrevented || event.isComposing || event.altKey || help.open) return;
  const command = event.ctrlKey || event.metaKey;
  const field = closest(event.target, "textarea, select, input:not([type=radio])");
  if (field && event.key === "Escape") field.blur();
  if (command && event.key === "Enter") verbs.submit();
  else if (field || command) return;
  else {
    const action = actionOf(event);
    if (!action) return;
    action();
  }
  event.preventDefault();
}

const ladder = new Ladder(find(document, "#ladder"), { letterOf, ids, verbs: ladderVerbs });
document.documentElement.classList.add("enhanced");
dock.hidden = false;
restoreExact(form);
state.rows = rowsOf((name) => control(form, name).value);
paint();
say(problem() || ready());
document.addEventListener("keydown", onKey);
form.addEventListener("submit", (event) => {
  const text = problem();
  if (!text) return;
  say(`Not saved yet. ${text}`, "bad");
  event.preventDefault();
});
for (const cause of causes) {
  cause.addEventListener("change", () => {
    paint();
    say(problem() || ready());
  });
}
document.addEventListener("click", (event) => {
  const start = closest(event.target, "[data-start]");
  if (start && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    startFrom(starts.indexOf(start));
    return;
  }
  const button = closest(event.target, "[data-do], .answer-place");
  if (!button) return;
  const card = button.matches(".answer-place") ? closest(button, "[data-response]") : null;
  if (card) ladderVerbs.pick(data(card, "response"), event.shiftKey);
  else if (button.dataset.do !== "submit") buttonVerbs[data(button, "do")]?.();
  if (event.detail > 0) button.blur();
});
