// The chat page: sends messages over a WebSocket, shows answers while they are written, and then
// replaces them with the turn that the server renders.
import { data, find, findAll, findOptional } from "./dom.js";

const LONGEST_PAUSE_MS = 15_000;

const page = find(document, "[data-chat]");
const turns = find(page, ".chat-turns");
const form = find(page, "#chat-form", HTMLFormElement);
const text = find(form, "#chat-text", HTMLTextAreaElement);
const send = find(form, "#chat-send", HTMLButtonElement);
const stop = find(form, "#chat-stop", HTMLButtonElement);
const error = find(form, "#chat-error");
const status = find(form, "#chat-status");
const sides = "pair" in page.dataset ? ["left", "right"] : ["left"];

/** @type {Record<string, string>} */
const SIDES = { left: gettext("Left"), right: gettext("Right") };
/** @type {Record<string, string>} */
const ENDINGS = { stop: gettext("complete"), length: gettext("cut off"), stopped: gettext("stopped"), failed: gettext("failed") };

/** @type {WebSocket} */
let socket;
let pauseMs = 500;
/** Whether a message was sent whose answers are not stored yet. */
let busy = false;
/** Whether the person sent the form before the connection was open. */
let isWaitingToSend = false;
/** The message that was sent and is not stored yet, to put it back if it is refused. */
let sentText = "";
/** @type {HTMLElement | null} */
let waiting = null;

function address() {
  const port = data(page, "livePort");
  const host = port === "0" ? location.host : `${location.hostname}:${port}`;
  return `${location.protocol === "https:" ? "wss" : "ws"}://${host}${data(page, "live")}`;
}

function connect() {
  socket = new WebSocket(address());
  socket.addEventListener("open", () => {
    pauseMs = 500;
    say("");
    update();
    if (isWaitingToSend) form.requestSubmit();
  });
  socket.addEventListener("message", (event) => receive(JSON.parse(event.data)));
  socket.addEventListener("close", (event) => {
    if (event.code === 4404) return say(gettext("You cannot write in this chat. Reload the page."));
    if (busy) finish();
    say(gettext("The connection to the live server was lost. Trying again …"));
    update();
    setTimeout(connect, pauseMs);
    pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS);
  });
}

/** @param {string} sentence */
function say(sentence) {
  error.textContent = sentence;
  error.hidden = !sentence;
}

function update() {
  send.disabled = busy;
  stop.hidden = !busy;
  const cannotRepeat = busy || socket.readyState !== WebSocket.OPEN;
  for (const button of findAll(turns, "[data-again]", HTMLButtonElement)) button.disabled = cannotRepeat;
}

/** @param {Record<string, unknown>} message */
function request(message) {
  say("");
  busy = true;
  update();
  socket.send(JSON.stringify(message));
}

/**
 * An event of the live server (finetune/chat/consumers.py).
 * @typedef {{ event: "asked" | "done", number: number }
 *   | { event: "piece", side: string, text: string }
 *   | { event: "end", side: string, ending: string, error: string }
 *   | { event: "refused", error: string }} LiveEvent
 */

/** @param {LiveEvent} event */
function receive(event) {
  if (event.event === "asked") showWaiting(event.number);
  else if (event.event === "piece") append(event.side, event.text);
  else if (event.event === "end") markEnd(event.side, event.error || event.ending);
  else if (event.event === "done") finish(event.number);
  else if (event.event === "refused") {
    busy = false;
    if (!waiting && sentText && !text.value) text.value = sentText;
    sentText = "";
    say(event.error);
    update();
  }
}

/** @param {number} number */
function showWaiting(number) {
  const old = findOptional(turns, `#turn-${number}`);
  const article = copyOf("#chat-waiting");
  const message = old && findOptional(old, ".chat-message");
  find(article, ".chat-message").textContent = message?.textContent ?? sentText;
  for (const side of sides) {
    const answer = copyOf("#chat-answer");
    answer.dataset.side = side;
    find(answer, "strong").textContent = sides.length > 1 ? SIDES[side] : gettext("Answer");
    find(article, ".answer-pair").append(answer);
  }
  article.id = `turn-${number}`;
  article.dataset.number = String(number);
  if (old) old.replaceWith(article);
  else turns.append(article);
  waiting = article;
  sentText = "";
  status.textContent = gettext("The answer is being written.");
  article.scrollIntoView({ block: "end" });
}

/** @param {string} selector */
function copyOf(selector) {
  const template = find(page, selector, HTMLTemplateElement);
  const copy = template.content.firstElementChild?.cloneNode(true);
  if (!(copy instanceof HTMLElement)) throw new TypeError(`${selector} is empty.`);
  return copy;
}

/**
 * @param {string} side
 * @param {string} piece
 */
function append(side, piece) {
  const answer = waiting && findOptional(waiting, `[data-side=${side}]`);
  if (!answer) return;
  const atEnd = innerHeight + scrollY >= document.body.scrollHeight - 80;
  find(answer, ".chat-stream").append(piece);
  find(answer, ".chat-state").textContent = gettext("writing");
  if (atEnd) scrollTo(scrollX, document.body.scrollHeight);
}

/**
 * @param {string} side
 * @param {string} note
 */
function markEnd(side, note) {
  const answer = waiting && findOptional(waiting, `[data-side=${side}]`);
  if (answer) find(answer, ".chat-state").textContent = ENDINGS[note] ?? note;
}

/** @param {number} [number] */
async function finish(number) {
  busy = false;
  const shown = number ?? (waiting && Number(data(waiting, "number")));
  waiting = null;
  update();
  if (shown) await load(shown);
  status.textContent = gettext("The answer is complete.");
  text.focus();
}

/** @param {number} number */
async function load(number) {
  try {
    const reply = await fetch(`${data(page, "chat")}${number}/`, { headers: { "HX-Request": "true" } });
    if (!reply.ok) throw new Error(String(reply.status));
    replaceTurn(number, await reply.text());
  } catch {
    say(gettext("The page could not load the answer. Reload it."));
  }
}

/**
 * @param {number} number
 * @param {string} html
 */
function replaceTurn(number, html) {
  // The HTML comes from the server, which renders texts of models safely.
  const parsed = new DOMParser().parseFromString(html, "text/html");
  find(turns, `#turn-${number}`).replaceWith(find(parsed, `#turn-${number}`));
  update();
}

/**
 * @param {HTMLFormElement} turnForm
 * @param {HTMLElement | null} submitter
 */
async function submit(turnForm, submitter) {
  const fields = new FormData(turnForm, submitter);
  const number = Number(data(find(document, `#${turnForm.closest(".chat-turn")?.id}`), "number"));
  try {
    const reply = await fetch(turnForm.action, { method: "POST", body: fields, headers: { "HX-Request": "true" } });
    if (!reply.ok && reply.status !== 422) throw new Error(String(reply.status));
    replaceTurn(number, await reply.text());
  } catch {
    say(gettext("It was not stored: the server could not be reached. Try again."));
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  isWaitingToSend = socket.readyState !== WebSocket.OPEN;
  if (isWaitingToSend || busy || !text.value.trim()) return;
  sentText = text.value;
  text.value = "";
  request({ do: "ask", text: sentText });
});

text.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
});

stop.addEventListener("click", () => socket.send(JSON.stringify({ do: "stop" })));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && busy) stop.click();
});

turns.addEventListener("submit", (event) => {
  if (!(event.target instanceof HTMLFormElement) || !event.target.matches("[data-turn-form]")) return;
  event.preventDefault();
  submit(event.target, event.submitter);
});

turns.addEventListener("click", async (event) => {
  if (!(event.target instanceof HTMLButtonElement)) return;
  if (event.target.matches("[data-again]")) request({ do: "again" });
  if (event.target.matches("[data-copy-answer]")) {
    const answer = event.target.closest(".answer");
    if (!answer) return;
    await navigator.clipboard.writeText(find(answer, ".prose").innerText);
    event.target.textContent = gettext("Copied");
  }
});

connect();
update();
