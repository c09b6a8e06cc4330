// Draw the curves of a run with uPlot: one chart per metric, together with its held-out twin.

/** @typedef {{ number: number, step: number, values: Record<string, number> }} Point */
/** @typedef {{ plot: uPlot, names: string, body: HTMLElement, card: HTMLElement }} Chart */

const HELD_OUT = /^(eval|test|held_out)[_/]/;
/** @type {Record<string, string | undefined>} */
const LABELS = { tokens_per_s: "tokens/s", memory_mb: "memory, MB", "held_out/nll": "held out, nats per token", drift: "drift on other prompts", reward_score: "mean score of samples", kl: "KL to the original model, nats", kl_per_token: "KL to the original model, nats per token", reward_spread: "spread of the scores of samples", equal_rewards: "prompts whose samples have equal scores", mean_tokens: "mean length of samples, tokens", truncated: "samples cut off", clipped: "share clipped", unscored: "samples without a score", distinct: "different samples" };
const COLOURS = ["--accent", "--warn", "--info", "--ok"];
const HEIGHT = 200;
/** Curves with fewer points show each of them. */
const FEW = 12;

/** @type {Map<number, Record<string, number>>} */
const steps = new Map();
/** @type {Map<string, Chart>} */
const charts = new Map();
/** @type {Set<string>} */
let shares = new Set();

/** @param {string} name */
const label = (name) => LABELS[name] || name.replaceAll("_", " ").replaceAll("/", " ");

/**
 * Resolve a custom property. Values of light-dark() resolve only on an element that uses them.
 * @param {string} name
 */
function colour(name) {
  const probe = document.createElement("span");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}

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
  /** @param {string} name */
  const position = (name) => (name === "loss" ? 0 : HELD_OUT.test(name) ? 2 : 1);
  return [...namesByGroup]
    .map(([group, names]) => /** @type {[string, string[]]} */ ([group, ordered(names)]))
    .sort(([a], [b]) => position(a) - position(b) || a.localeCompare(b));
}

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

/** @typedef {(value: number | null | undefined) => string} Format */

/** @type {Format} */
function short(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  return value.toLocaleString("en", { maximumSignificantDigits: 4 });
}

/**
 * Format a share as the rest of the page does: one decimal, and a point in every language.
 * @type {Format}
 */
const percent = (value) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(1)}%`);
/** @param {string} name */
const formatOf = (name) => (shares.has(name) ? percent : short);

/**
 * Show the value under the pointer in the legend, or the latest value.
 * @param {Format} format
 * @returns {uPlot.Series.Value}
 */
function legendValue(format) {
  return (plot, value, series, index) => {
    if (index !== null && index !== undefined) return format(value);
    return format([...plot.data[series]].findLast((other) => other !== null));
  };
}

/**
 * Limit the axis to 100%: a curve that stays at 100% would otherwise be drawn halfway up to 200%.
 * @type {uPlot.Range.Function}
 */
function rangeOfShares(_plot, low, high) {
  const [from, to] = uPlot.rangeNum(low ?? 0, high ?? 1, 0.1, true);
  return [Math.max(0, from ?? 0), Math.min(1, to ?? 1)];
}

/**
 * @param {string[]} names
 * @param {number} width
 * @returns {uPlot.Options}
 */
function options(names, width) {
  /** @type {uPlot.Axis} */
  const axis = {
    stroke: colour("--muted"), font: "12px system-ui",
    grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 },
  };
  return {
    width, height: HEIGHT,
    scales: { x: { time: false }, y: { range: shares.has(names[0]) ? rangeOfShares : undefined } },
    legend: { live: true },
    cursor: { sync: { key: "run" } },
    axes: [axis, { ...axis, size: 60, values: (_, ticks) => ticks.map(formatOf(names[0])) }],
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
 */
function make(root, group, names) {
  const card = document.createElement("div");
  card.className = "card runs-curve";
  const heading = document.createElement("h3");
  heading.textContent = label(group);
  const body = document.createElement("div");
  card.append(heading, body);
  root.append(card);
  const plot = new uPlot(options(names, body.clientWidth), dataOf(names), body);
  charts.set(group, { plot, names: names.join(), body, card });
}

/** @param {HTMLElement} root */
function draw(root) {
  for (const [group, names] of groups()) {
    const chart = charts.get(group);
    if (chart && chart.names === names.join()) chart.plot.setData(dataOf(names));
    else {
      remove(group);
      make(root, group, names);
    }
  }
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
  new MutationObserver(redraw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  new ResizeObserver(() => {
    for (const { plot, body } of charts.values()) {
      if (body.clientWidth && body.clientWidth !== plot.width) {
        plot.setSize({ width: body.clientWidth, height: HEIGHT });
      }
    }
  }).observe(root);
  return extend;
}
