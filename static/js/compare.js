// Draw the curves of several runs over each other: one chart per metric, one line per run. A letter at
// the end of each line and its pattern tell the runs apart without colour. The arrow keys move along the
// curves of the focused chart, and the cursor moves in all charts.
import { FEW, colour, fit, frame, legendValue, percent, short } from "./charts.js";
import { data, find } from "./dom.js";

/**
 * The curves of a run. `values` has a number or null for each step.
 * @typedef {object} RunCurves
 * @property {string} letter
 * @property {string} name
 * @property {number} colour
 * @property {number} dash
 * @property {number} total  steps of the whole run, 0 if unknown
 * @property {number[]} steps
 * @property {number[]} seconds
 * @property {Record<string, (number | null)[]>} values
 */
/** @typedef {{ runs: RunCurves[], labels: Record<string, string>, shares: string[] }} Compared */
/** @typedef {{ name: string, plot: uPlot, body: HTMLElement }} Chart */
/** @typedef {"step" | "time" | "progress"} AxisName */

const DASHES = [[], [9, 5], [2, 3], [10, 3, 2, 3], [5, 3]];
const FIRST = /^(loss|(eval|test|held_out)[_/])/;

/** @type {Compared} */
const compared = JSON.parse(find(document, "#compared", HTMLScriptElement).text);
const { runs, labels } = compared;
const shares = new Set(compared.shares);
const root = find(document, "[data-compare-curves]");
const single = find(document, "[data-single-curves]", HTMLDetailsElement);
const axis = find(document, "[data-axis]", HTMLSelectElement);
const smoothing = find(document, "[data-smoothing]", HTMLInputElement);
const visible = runs.map(() => true);
/** @type {Chart[]} */
let charts = [];

/** @param {string} name */
const runsWith = (name) => runs.filter((run) => name in run.values).length;

/** Return the metrics: the loss and those of held-out data first, then the others by label. */
function metrics() {
  /** @param {string} name */
  const position = (name) => (name === "loss" ? 0 : FIRST.test(name) ? 1 : 2);
  return Object.keys(labels).sort(
    (a, b) => position(a) - position(b) || labels[a].localeCompare(labels[b]) || a.localeCompare(b),
  );
}

/** @type {Record<AxisName, (run: RunCurves) => number[]>} */
const POSITIONS = {
  step: (run) => run.steps,
  time: (run) => run.seconds,
  progress: (run) => {
    const total = run.total || run.steps.at(-1) || 1;
    return run.steps.map((step) => step / total);
  },
};

/** @param {number | null | undefined} seconds */
function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 60) return `${short(seconds)} s`;
  return seconds < 3600 ? `${short(seconds / 60)} min` : `${short(seconds / 3600)} h`;
}

/** @type {Record<AxisName, { label: string, format: import("./charts.js").Format }>} */
const AXES = {
  step: { label: "step", format: short },
  time: { label: "time", format: duration },
  progress: { label: "progress", format: percent },
};
const axisName = () => /** @type {AxisName} */ (axis.value);

/**
 * Return the exponential moving average of a curve. The start is not biased towards 0.
 * @param {(number | null)[]} values
 * @param {number} weight  of the average before the new value
 */
function smooth(values, weight) {
  let average = 0, total = 0;
  return values.map((value) => {
    if (value === null) return null;
    average = weight * average + (1 - weight) * value;
    total = weight * total + (1 - weight);
    return average / total;
  });
}

/**
 * @param {string} name
 * @returns {uPlot.AlignedData}
 */
function dataOf(name) {
  const weight = Number(smoothing.value);
  return uPlot.join(runs.map((run) => {
    const xs = POSITIONS[axisName()](run);
    const values = run.values[name] ?? run.steps.map(() => null);
    const order = xs.map((_, index) => index).filter((index) => values[index] !== null);
    order.sort((a, b) => xs[a] - xs[b]);
    // Two points at one position, such as two steps in the same second, would not be joined.
    const unique = order.filter((index, at) => at === order.length - 1 || xs[index] !== xs[order[at + 1]]);
    const ys = smooth(unique.map((index) => values[index]), weight);
    return /** @type {uPlot.AlignedData} */ ([unique.map((index) => xs[index]), ys]);
  }));
}

/**
 * Write the letter of each run at the end of its line.
 * @param {uPlot} plot
 */
function drawLetters(plot) {
  const { ctx } = plot;
  ctx.save();
  ctx.font = `bold ${12 * devicePixelRatio}px system-ui`;
  ctx.textBaseline = "middle";
  ctx.textAlign = "left";
  runs.forEach((run, number) => {
    const ys = plot.data[number + 1];
    const last = ys.findLastIndex((value) => value !== null && value !== undefined);
    if (last < 0 || !plot.series[number + 1].show) return;
    const x = plot.valToPos(plot.data[0][last], "x", true);
    const y = plot.valToPos(Number(ys[last]), "y", true);
    ctx.fillStyle = colour(`--series-${run.colour}`);
    ctx.fillText(run.letter, x + 6 * devicePixelRatio, y);
  });
  ctx.restore();
}

/**
 * @param {string} name
 * @param {number} width
 * @returns {uPlot.Options}
 */
function options(name, width) {
  const { label, format } = AXES[axisName()];
  const formatY = shares.has(name) ? percent : short;
  return {
    ...frame({ width, share: shares.has(name), x: format }),
    padding: [8, 20, 0, 0],
    focus: { alpha: 0.25 },
    cursor: { sync: { key: "compare" }, focus: { prox: 16 } },
    hooks: { draw: [drawLetters] },
    series: [
      { label, value: legendValue(format) },
      ...runs.map((run, number) => ({
        label: run.letter, stroke: colour(`--series-${run.colour}`), width: 1.75,
        dash: DASHES[run.dash], show: visible[number] && name in run.values, spanGaps: true,
        points: { show: (run.values[name] ?? []).filter((value) => value !== null).length < FEW },
        value: legendValue(formatY),
      })),
    ],
  };
}

/**
 * @param {HTMLElement} parent
 * @param {string} name
 */
function draw(parent, name) {
  const card = document.createElement("div");
  card.className = "card runs-curve";
  const heading = document.createElement("h3");
  heading.textContent = labels[name];
  const body = document.createElement("div");
  body.className = "compare-chart";
  body.tabIndex = 0;
  body.setAttribute("role", "group");
  body.setAttribute("aria-label", `${labels[name]}. The arrow keys move along the curves.`);
  card.append(heading, body);
  parent.append(card);
  const plot = new uPlot(options(name, body.clientWidth), dataOf(name), body);
  body.addEventListener("keydown", (event) => moveCursor(event, plot));
  body.addEventListener("blur", () => {
    for (const { plot: each } of charts) each.setCursor({ left: -10, top: -10 });
  });
  charts.push({ name, plot, body });
}

/**
 * Move the cursor of a chart with the arrow keys, Home and End, and read the values aloud.
 * @param {KeyboardEvent} event
 * @param {uPlot} plot
 */
function moveCursor(event, plot) {
  const end = plot.data[0].length - 1;
  const index = plot.cursor.idx;
  const next = {
    ArrowLeft: index === null || index === undefined ? end : Math.max(0, index - 1),
    ArrowRight: index === null || index === undefined ? 0 : Math.min(end, index + 1),
    Home: 0, End: end,
  }[event.key];
  if (next === undefined || end < 0) return;
  event.preventDefault();
  const position = plot.data[0][next];
  for (const { plot: each } of charts) each.setCursor({ left: each.valToPos(position, "x"), top: 0 });
  const x = AXES[axisName()].format(position);
  const values = plot.series.slice(1).flatMap((series, number) => {
    const value = plot.data[number + 1][next];
    if (!series.show || value === null || value === undefined) return [];
    return [`${runs[number].letter} ${series.value instanceof Function ? series.value(plot, value, number + 1, next) : value}`];
  });
  find(document, "[data-readout]").textContent = `${x}: ${values.join(", ")}`;
}

function redraw() {
  for (const { plot } of charts) plot.destroy();
  charts = [];
  const more = find(single, ".runs-curves");
  root.replaceChildren();
  more.replaceChildren();
  const names = metrics();
  const shared = names.filter((name) => runs.length === 1 || runsWith(name) > 1);
  const others = names.filter((name) => !shared.includes(name));
  for (const name of shared) draw(root, name);
  single.hidden = !others.length;
  if (single.open) for (const name of others) draw(more, name);
}

/**
 * Show or hide the lines of a run in all charts.
 * @param {number} number
 * @param {boolean} show
 */
function setVisible(number, show) {
  visible[number] = show;
  for (const { plot } of charts) plot.setSeries(number + 1, { show });
}

/**
 * Bring out the lines of a run in all charts, or of none.
 * @param {number | null} number
 */
function bringOut(number) {
  for (const { plot } of charts) plot.setSeries(number === null ? null : number + 1, { focus: number !== null });
}

for (const box of document.querySelectorAll("[data-series]")) {
  if (!(box instanceof HTMLInputElement)) continue;
  const number = Number(data(box, "series"));
  box.addEventListener("change", () => setVisible(number, box.checked));
  const item = box.closest("li") ?? box;
  item.addEventListener("pointerenter", () => bringOut(number));
  item.addEventListener("pointerleave", () => bringOut(null));
  box.addEventListener("focus", () => bringOut(number));
  box.addEventListener("blur", () => bringOut(null));
  if (!box.checked) visible[number] = false; // a reload keeps the boxes of the form
}
find(document, "[data-controls]").hidden = false;
axis.addEventListener("change", redraw);
single.addEventListener("toggle", redraw);
smoothing.addEventListener("input", () => {
  find(document, "[data-smoothing-value]").textContent = smoothing.value;
  for (const { name, plot } of charts) plot.setData(dataOf(name));
});
redraw();
fit(root, () => charts, redraw);
