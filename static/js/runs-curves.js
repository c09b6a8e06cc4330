// Draw the curves of a run with uPlot: one chart per metric, together with its held-out twin. The
// curves that matter first come first, and the others are folded.
import { FEW, colour, fit, frame, legendValue, percent, short } from "./charts.js";
import { find } from "./dom.js";
import { explained, json, label } from "./terms.js";

/** @typedef {{ number: number, step: number, values: Record<string, number> }} Point */
/** @typedef {{ plot: uPlot, names: string, body: HTMLElement, card: HTMLElement }} Chart */

const HELD_OUT = /^(eval|test|held_out)[_/]/;
const COLOURS = ["--accent", "--warn", "--info", "--ok"];

/** @type {Map<number, Record<string, number>>} */
const steps = new Map();
/** @type {Map<string, Chart>} */
const charts = new Map();
/** @type {Set<string>} */
let shares = new Set();

/** @type {string[]} the figures that matter first */
let main = [];

/**
 * Add points. A resumed run repeats the steps after its checkpoint; the later value counts.
 * @param {Point[]} points
 */
function add(points) {
  for (const { step, values } of points) steps.set(step, { ...steps.get(step), ...values });
}

/**
 * Return the metrics to draw, each with the names of its curves.
 * @returns {[string, string[]][]}
 */
function groups() {
  /** @type {Map<string, Set<string>>} */
  const namesByGroup = new Map();
  for (const name of [...steps.values()].flatMap(Object.keys)) {
    const group = name.replace(HELD_OUT, "");
    namesByGroup.set(group, (namesByGroup.get(group) ?? new Set()).add(name));
  }
  return [...namesByGroup]
    .map(([group, names]) => /** @type {[string, string[]]} */ ([group, ordered(names)]))
    .sort(([a, names], [b, others]) => rank(names) - rank(others) || a.localeCompare(b));
}

/**
 * Return the position of a chart among those that matter first, or Infinity.
 * @param {string[]} names
 */
const rank = (names) => Math.min(...names.map((name) => (main.includes(name) ? main.indexOf(name) : Infinity)));

/**
 * Put the training curve before its held-out twin, so that every chart uses the same colours.
 * @param {Iterable<string>} names
 */
const ordered = (names) =>
  [...names].sort((a, b) => Number(HELD_OUT.test(a)) - Number(HELD_OUT.test(b)) || a.localeCompare(b));

/**
 * Return the number of points of a curve. A curve of one point is only visible as a dot.
 * @param {string} name
 */
const countOf = (name) => [...steps.values()].filter((values) => name in values).length;

/**
 * @param {string[]} names
 * @returns {uPlot.AlignedData}
 */
function dataOf(names) {
  const rows = [...steps].filter(([, values]) => names.some((name) => name in values)).sort(([a], [b]) => a - b);
  return [rows.map(([step]) => step), ...names.map((name) => rows.map(([, values]) => values[name] ?? null))];
}

/** @param {string} name */
const formatOf = (name) => (shares.has(name) ? percent : short);

/**
 * @param {string[]} names
 * @param {number} width
 * @returns {uPlot.Options}
 */
function options(names, width) {
  return {
    ...frame({ width, share: shares.has(names[0]) }),
    series: [
      { label: "step", value: legendValue(short) },
      ...names.map((name, number) => ({
        label: label(name), stroke: colour(COLOURS[number % COLOURS.length]), width: 1.75,
        spanGaps: true, points: { show: countOf(name) < FEW }, value: legendValue(formatOf(name)),
      })),
    ],
  };
}

/**
 * @param {HTMLElement} root
 * @param {string} group
 * @param {string[]} names
 * @param {HTMLElement | null} next  the card before which the new one is inserted
 */
function make(root, group, names, next) {
  const card = document.createElement("div");
  card.className = "card runs-curve";
  const heading = document.createElement("h3");
  heading.append(explained(names[0], `curve-${charts.size}-${group.replaceAll(/\W+/g, "-")}`));
  const body = document.createElement("div");
  card.append(heading, body);
  root.insertBefore(card, next);
  const plot = new uPlot(options(names, body.clientWidth), dataOf(names), body);
  charts.set(group, { plot, names: names.join(), body, card });
}

/**
 * Draw the curves that matter first into `root`, and the others into the folded part after it. Without
 * curves that matter first, nothing is folded.
 * @param {HTMLElement} root
 */
function draw(root) {
  const more = find(document, "[data-more-curves]");
  const all = groups();
  const fold = all.some(([, names]) => rank(names) < Infinity);
  /** @type {Map<HTMLElement, HTMLElement>} */
  const next = new Map();
  for (const [group, names] of all.toReversed()) {
    const parent = fold && rank(names) === Infinity ? find(more, ".runs-curves") : root;
    const chart = charts.get(group);
    if (chart && chart.names === names.join() && parent.contains(chart.card)) chart.plot.setData(dataOf(names));
    else {
      remove(group);
      make(parent, group, names, next.get(parent) ?? null);
    }
    const shown = charts.get(group);
    if (shown) next.set(parent, shown.card);
  }
  more.hidden = !find(more, ".runs-curves").childElementCount;
}

/** @param {string} group */
function remove(group) {
  const chart = charts.get(group);
  if (!chart) return;
  chart.plot.destroy();
  chart.card.remove();
  charts.delete(group);
}

/**
 * Draw the curves into `root`, and return a function that adds points to them.
 * @param {HTMLElement} root
 * @param {Point[]} points
 */
export function drawCurves(root, points) {
  main = json("main-figures");
  const redraw = () => {
    for (const group of [...charts.keys()]) remove(group);
    draw(root);
  };
  /** @param {Point[]} more */
  const extend = (more) => {
    add(more);
    draw(root);
  };
  shares = new Set((root.dataset.shares || "").split(" "));
  extend(points);
  fit(find(document, "[data-run-curves]"), () => charts.values(), redraw);
  return extend;
}
