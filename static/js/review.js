// Makes the ranking form quick: the form works without this script, and stays the only truth that
// is sent. The script reads its rank selects into rows, changes the rows, and writes them back.
import { Clock } from "./review-clock.js";
import { Draft } from "./review-draft.js";
import { listen } from "./review-keys.js";
import { Ladder } from "./review-ladder.js";
import * as order from "./order.js";

const form = document.getElementById("ranking-form");
const cards = new Map([...form.querySelectorAll("[data-response]")].map((card) => [card.dataset.response, card]));
const letterOf = (id) => (id === order.LINE ? "The line" : cards.get(id).dataset.letter);
const ORDINALS = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth"];

const state = { rows: [], selected: null, tieNext: false, past: [], future: [] };
const status = document.getElementById("review-status");
const dock = document.getElementById("dock");

function say(text, kind = "") {
  status.textContent = text;
  status.dataset.kind = kind;
}

// The form and the rows

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

function describe(id) {
  if (!id) return "The line is gone.";
  const at = order.rowOf(state.rows, id);
  if (id === order.LINE) {
    const above = order.tiersOf(state.rows.slice(0, at)).length;
    return above ? `Unacceptable below ${ORDINALS[above - 1]} place.` : "Everything is unacceptable.";
  }
  if (at < 0) return `${letterOf(id)} is not placed.`;
  const row = state.rows[at];
  const rank = ORDINALS[order.tiersOf(state.rows.slice(0, at)).length];
  const mates = row.filter((other) => other !== id).map(letterOf).join(" and ");
  const line = state.rows.indexOf(order.LINE);
  const below = line >= 0 && line < at ? ", unacceptable" : "";
  return `${letterOf(id)} is ${rank}${mates ? `, tied with ${mates}` : ""}${below}.`;
}

function paint() {
  const line = state.rows.indexOf(order.LINE);
  for (const [id, card] of cards) {
    const at = order.rowOf(state.rows, id);
    const rank = at < 0 ? 0 : order.tiersOf(state.rows.slice(0, at)).length + 1;
    const badge = card.querySelector(".answer-rank");
    const tied = at >= 0 && state.rows[at].length > 1;
    badge.textContent = rank ? `${tied ? "=" : ""}${rank}` : "";
    card.dataset.placed = rank ? "yes" : "no";
    card.dataset.unacceptable = at >= 0 && line >= 0 && line < at ? "yes" : "no";
    card.dataset.selected = state.selected === id ? "yes" : "no";
    card.querySelector(".answer-place").setAttribute("aria-label", rank ? `Select ${describe(id)}` : `Place ${letterOf(id)} next`);
  }
  ladder.paint(state);
  dock.querySelector("[data-do=submit]").dataset.ready = missing().length ? "no" : "yes";
  for (const button of dock.querySelectorAll("[data-needs=selection]")) button.disabled = !state.selected;
  dock.querySelector("[data-do=undo]").disabled = !state.past.length;
  dock.querySelector("[data-do=tie]").setAttribute("aria-pressed", state.tieNext);
}

function missing() {
  const done = new Set(order.placed(state.rows));
  return [...cards.keys()].filter((id) => !done.has(id));
}

function change(rows, selected, text) {
  if (JSON.stringify(rows) !== JSON.stringify(state.rows)) {
    state.past.push({ rows: state.rows, selected: state.selected });
    state.future = [];
  }
  Object.assign(state, { rows, selected, tieNext: false });
  settle(text ?? describe(selected));
}

function settle(text) {
  writeForm();
  paint();
  draft.save();
  const rest = missing();
  say(rest.length || !text ? text : `${text} All placed: Enter submits.`);
}

function travel(from, to) {
  const step = from.pop();
  if (!step) return;
  to.push({ rows: state.rows, selected: state.selected });
  Object.assign(state, step);
  settle(to === state.future ? "Undone." : "Done again.");
}

// What a reviewer can do; keys, buttons and drops all end here

const verbs = {
  pick(id, tied) {
    if (tied || state.tieNext) change(order.tie(state.rows, id, state.selected), id);
    else if (order.rowOf(state.rows, id) < 0) change(order.place(state.rows, id), id);
    else verbs.select(id);
  },
  select(id) {
    state.selected = id;
    paint();
    say(describe(id));
  },
  tie() {
    state.tieNext = !state.tieNext && order.placed(state.rows).length > 0;
    paint();
    const mate = state.selected && state.selected !== order.LINE ? state.selected : order.placed(state.rows).at(-1);
    say(state.tieNext ? `The next one ties with ${letterOf(mate)}.` : "Place a response first, then tie the next one with it.");
  },
  better: () => state.selected && change(order.move(state.rows, state.selected, -1), state.selected),
  worse: () => state.selected && change(order.move(state.rows, state.selected, 1), state.selected),
  line() {
    const rows = order.line(state.rows, state.selected);
    change(rows, rows.includes(order.LINE) ? order.LINE : null);
  },
  back() {
    if (state.selected) change(order.without(state.rows, state.selected), null, `${letterOf(state.selected)} is back in the tray.`);
  },
  drop: (id, mate) => change(order.tie(state.rows, id, mate), id),
  dropBefore: (id, at) => change(order.putBefore(state.rows, id, at), id),
  takeBack: (id) => change(order.without(state.rows, id), null, `${letterOf(id)} is back in the tray.`),
  undo: () => travel(state.past, state.future),
  redo: () => travel(state.future, state.past),
  submit: () => form.requestSubmit(dock.querySelector("[data-do=submit]")),
  rate() {
    const card = cards.get(state.selected) ?? cards.values().next().value;
    const extras = card.querySelector(".answer-extras");
    extras.open = true;
    const first = extras.querySelector("input:checked") ?? extras.querySelector("input");
    first?.focus();
  },
  note: () => form.elements.rationale.focus(),
  guideline: () => toggle(document.getElementById("guideline")),
  layout() {
    const stacked = form.dataset.layout !== "stacked";
    form.dataset.layout = stacked ? "stacked" : "side";
    localStorage.setItem("tiebreak-layout", form.dataset.layout);
    say(stacked ? "Responses below each other." : "Responses side by side.");
  },
  skip: () => open("skip-dialog"),
  help: () => open("help-dialog"),
  read(step) {
    const list = [...cards.values()];
    const at = list.indexOf(document.activeElement?.closest("[data-response]"));
    const next = list[Math.min(list.length - 1, Math.max(0, at + step))];
    next.querySelector(".answer-place").focus({ preventScroll: true });
    next.scrollIntoView({ block: "start", behavior: "smooth" });
  },
  letter: (index) => [...cards.keys()][index],
};

function toggle(details) {
  details.open = !details.open;
}

function open(id) {
  const dialog = document.getElementById(id);
  if (!dialog.open) dialog.showModal();
}

// Wiring

function refuse(event) {
  const rest = missing().map(letterOf);
  const words = rest.length > 1 ? `${rest.slice(0, -1).join(", ")} and ${rest.at(-1)}` : rest[0];
  if (rest.length) say(`Not sent yet: ${words} ${rest.length > 1 ? "have" : "has"} no place. Every response needs one.`, "bad");
  else if (!navigator.onLine) say("There is no network. The ranking is kept in this browser; submit again when it is back.", "bad");
  else if (form.dataset.sent) say("Sending…");
  else {
    form.dataset.sent = "1";
    clock.tick();
    return;
  }
  event.preventDefault();
}

function setUpGuideline() {
  const details = document.getElementById("guideline");
  if (!details) return;
  if (matchMedia("(max-width: 64rem)").matches) details.open = false;
  details.addEventListener("toggle", () => {
    if (matchMedia("(max-width: 64rem)").matches) return;
    document.cookie = `guideline=${details.open ? "open" : "closed"}; path=/; max-age=31536000; samesite=lax`;
  });
}

const clock = new Clock(form);
clock.show = (seconds, running) => {
  const output = document.getElementById("active-time");
  output.textContent = `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
  output.dataset.running = running;
};
const DRAFT_STATES = {
  saved: "",
  unsaved: "The draft is kept in this browser only: the server did not take it.",
  offline: "No network: your work is kept in this browser and sent when it returns.",
  lost: "Your reservation ran out. Everything is still here; submit it, or skip the task.",
};
const onDraft = (name) => DRAFT_STATES[name] && say(DRAFT_STATES[name], "warn");
const draft = new Draft(form, { clock, onState: onDraft });
const ladder = new Ladder(document.getElementById("ladder"), { letterOf, ids: [...cards.keys()], verbs });

document.documentElement.classList.add("enhanced");
dock.hidden = false;
form.dataset.layout = localStorage.getItem("tiebreak-layout") || "side";
state.rows = readForm();
paint();
setUpGuideline();
listen({ form, verbs, onPending: () => draft.save() });
if (form.dataset.renewUrl) clock.renewEvery(Number(form.dataset.renewSeconds), () => onDraft("lost"));
form.addEventListener("input", () => draft.save());
form.addEventListener("submit", refuse);
window.addEventListener("pageshow", () => delete form.dataset.sent);
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do], .answer-place");
  if (!button) return;
  if (button.matches(".answer-place")) verbs.pick(button.closest("[data-response]").dataset.response, event.shiftKey);
  else if (button.dataset.do !== "submit") verbs[button.dataset.do]();
  if (event.detail > 0 && !button.closest("dialog")) button.blur(); // so that Enter submits after a click
});
