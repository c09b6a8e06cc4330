// Keep the page of a run up to date: poll often while the run changes, rarely while it does not, and
// never while the page is hidden or after the run has ended. Back off while the server does not answer.
import { data, find, findAll, findOptional } from "./dom.js";
import { drawCurves } from "./runs-curves.js";

/**
 * The state of a run that has not ended.
 * @typedef {object} RunState
 * @property {string} state
 * @property {string} label
 * @property {boolean} ended
 * @property {boolean} cancelling
 * @property {number} step
 * @property {import("./runs-curves.js").Point[]} points  those after the last point on the page
 * @property {string} status  HTML
 * @property {string} figures  HTML
 * @property {string} messages  HTML
 * @property {{ number: number, html: string } | null} samples  null if the page has the newest ones
 * @property {string} log
 */

const FAST = 1000, CALM = 3000, SLOW = 10000, MAX_RETRY_DELAY = 15000;
const CALM_AFTER = 20000, SLOW_AFTER = 120000;

const page = find(document, "[data-run-live]");
/** @param {string} name */
const part = (name) => find(page, `[data-run-${name}]`);
const curves = part("curves");
const addPoints = drawCurves(
  find(curves, "[data-curves]"), JSON.parse(find(document, "#points", HTMLScriptElement).text),
);

function followRun() {
  let last = Number(page.dataset.last);
  let state = page.dataset.state;
  let seen = "";
  let changedAt = Date.now();
  let answeredAt = new Date();
  let failures = 0;
  let timer = 0;
  let asking = false;

  function pause() {
    if (failures) return Math.min(MAX_RETRY_DELAY, FAST * 2 ** (failures - 1));
    const still = Date.now() - changedAt;
    return still < CALM_AFTER ? FAST : still < SLOW_AFTER ? CALM : SLOW;
  }

  function askLater() {
    clearTimeout(timer);
    if (!document.hidden) timer = setTimeout(ask, pause());
  }

  async function ask() {
    if (asking) return;
    asking = true;
    try {
      const reply = await fetch(`${data(page, "runLive")}?after=${last}&samples=${data(part("samples"), "samples")}`, {
        redirect: "manual", headers: { Accept: "application/json" }, signal: AbortSignal.timeout(10000),
      });
      if (reply.type === "opaqueredirect" || reply.status === 403 || reply.status === 404) {
        say("You are signed out, or the run was deleted. Reload the page.");
        return;
      }
      if (!reply.ok) throw new Error(String(reply.status));
      show(await reply.json());
      failures = 0;
      answeredAt = new Date();
      say("");
    } catch {
      failures += 1;
      say(`Reconnecting… This page shows the run as of ${clockTime(answeredAt)}. The run continues without it.`);
    } finally {
      asking = false;
    }
    askLater();
  }

  /** @param {RunState} run */
  function show(run) {
    if (run.ended) {
      location.reload();
      return;
    }
    const changing = `${run.state} ${run.step} ${run.log.length} ${run.cancelling}`;
    if (changing !== seen) [seen, changedAt] = [changing, Date.now()];
    if (run.state !== state) {
      part("announce").textContent = run.label;
      state = run.state;
    }
    replace("status", run.status);
    showFigures(run.figures);
    replace("messages", run.messages);
    if (run.samples) showSamples(run.samples.number, run.samples.html);
    showLog(part("log"), run.log || "No output yet.");
    const newest = run.points.at(-1);
    if (newest) {
      last = newest.number;
      curves.hidden = false;
      addPoints(run.points);
    }
  }

  part("log").scrollTop = part("log").scrollHeight;
  document.addEventListener("visibilitychange", () => { if (!document.hidden) ask(); else clearTimeout(timer); });
  window.addEventListener("online", ask);
  askLater();
}

/** @param {Date} moment */
function clockTime(moment) {
  return moment.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
}

/** @param {string} text */
function say(text) {
  const line = part("connection");
  line.hidden = !text;
  if (line.textContent !== text) line.textContent = text;
}

/**
 * Replace a part only if it has changed, so that selected text stays selected.
 * @param {string} name
 * @param {string} html
 */
function replace(name, html) {
  const element = part(name);
  if (element.dataset.shown !== html) {
    element.innerHTML = html;
    element.dataset.shown = html;
  }
}

/**
 * Show the newest figures. While they have the same names, only their values change, so that an
 * explanation stays open.
 * @param {string} html
 */
function showFigures(html) {
  const root = part("figures");
  const draft = document.createElement("template");
  draft.innerHTML = html;
  const newest = findAll(draft.content, "[data-figure]"), current = findAll(root, "[data-figure]");
  /** @param {HTMLElement[]} figures */
  const names = (figures) => figures.map((figure) => figure.dataset.figure).join();
  if (names(newest) !== names(current)) {
    const open = findOptional(root, "details[open]") !== null;
    root.replaceChildren(draft.content);
    if (open) findOptional(root, "details")?.setAttribute("open", "");
    return;
  }
  newest.forEach((figure, index) => {
    for (const selector of [".figure-value", ".figure-interval"]) {
      const shown = find(current[index], selector), { textContent } = find(figure, selector);
      if (shown.textContent !== textContent) shown.textContent = textContent;
    }
  });
}

/**
 * Show the newest sample answers, and keep open the earlier answers that were open.
 * @param {number} number
 * @param {string} html
 */
function showSamples(number, html) {
  const root = part("samples");
  const open = findAll(root, "details[open]").map((details) => details.dataset.sample);
  root.innerHTML = html;
  for (const details of findAll(root, "details")) details.toggleAttribute("open", open.includes(details.dataset.sample));
  root.dataset.samples = String(number);
  part("samples-section").hidden = false;
}

/**
 * Show the log, and keep it scrolled to the end if it was.
 * @param {HTMLElement} log
 * @param {string} text
 */
function showLog(log, text) {
  if (log.textContent === text) return;
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 24;
  log.textContent = text;
  if (atEnd) log.scrollTop = log.scrollHeight;
}

if (!("ended" in page.dataset)) followRun();
