// What the charts with uPlot share: colours of the theme, axes, formats of values, and resizing.

/** @typedef {(value: number | null | undefined) => string} Format */

export const HEIGHT = 200;
/** Curves with fewer points show each of them. */
export const FEW = 12;

/**
 * Resolve a custom property. Values of light-dark() resolve only on an element that uses them.
 * @param {string} name
 */
export function colour(name) {
  const probe = document.createElement("span");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}

/** @type {Format} */
export function short(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  return value.toLocaleString("en", { maximumSignificantDigits: 4 });
}

/**
 * Format a share as the rest of the page does: one decimal, and a point in every language.
 * @type {Format}
 */
export const percent = (value) =>
  value === null || value === undefined ? "–" : `${(100 * value).toFixed(1)}%`;

/**
 * Show the value under the pointer in the legend, or the latest value.
 * @param {Format} format
 * @returns {uPlot.Series.Value}
 */
export function legendValue(format) {
  return (plot, value, series, index) => {
    if (index !== null && index !== undefined) return format(value);
    return format([...plot.data[series]].findLast((other) => other !== null && other !== undefined));
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
 * Return the options that all charts share. `x` formats the horizontal axis, and `y` the vertical one.
 * @param {{ width: number, share: boolean, x?: Format }} chart
 * @returns {Omit<uPlot.Options, "series">}
 */
export function frame({ width, share, x = short }) {
  /** @type {uPlot.Axis} */
  const axis = {
    stroke: colour("--muted"), font: "12px system-ui",
    grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 },
  };
  const y = share ? percent : short;
  return {
    width, height: HEIGHT,
    scales: { x: { time: false }, y: { range: share ? rangeOfShares : undefined } },
    legend: { live: true },
    cursor: { sync: { key: "run" } },
    axes: [
      { ...axis, values: (_, ticks) => ticks.map(x) },
      { ...axis, size: 60, values: (_, ticks) => ticks.map(y) },
    ],
  };
}

/**
 * Call `redraw` when the theme changes, and fit the charts to their containers when these change.
 * @param {HTMLElement} root
 * @param {() => Iterable<{ plot: uPlot, body: HTMLElement }>} charts
 * @param {() => void} redraw
 */
export function fit(root, charts, redraw) {
  new MutationObserver(redraw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  new ResizeObserver(() => {
    for (const { plot, body } of charts()) {
      if (body.clientWidth && body.clientWidth !== plot.width) {
        plot.setSize({ width: body.clientWidth, height: HEIGHT });
      }
    }
  }).observe(root);
}
