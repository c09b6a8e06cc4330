// Draws the curves of a run with uPlot: one chart for each metric, its held-out twin in the same.
const CURVES = (() => {
  const HELD_OUT = /^(eval|test|held_out)[_/]/;
  const LABELS = { tokens_per_s: "tokens/s", memory_mb: "memory, MB" };
  const COLOURS = ["--accent", "--warn", "--info", "--ok"];
  const steps = new Map();
  const charts = new Map();
  let place = null;
  let shares = new Set();

  const label = (name) => LABELS[name] || name.replaceAll("_", " ").replaceAll("/", " ");

  // Custom properties made with light-dark() resolve only where they are used.
  function colour(name) {
    const probe = document.createElement("span");
    probe.style.color = `var(${name})`;
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  }

  // A resumed run repeats the steps after its checkpoint; the later word counts.
  function add(points) {
    for (const { step, values } of points) steps.set(step, { ...steps.get(step), ...values });
  }

  function groups() {
    const found = new Map();
    for (const values of steps.values()) {
      for (const name of Object.keys(values)) {
        const group = name.replace(HELD_OUT, "");
        if (!found.has(group)) found.set(group, new Set());
        found.get(group).add(name);
      }
    }
    const first = (name) => (name === "loss" ? 0 : HELD_OUT.test(name) ? 2 : 1);
    return [...found].map(([group, names]) => [group, ordered(names)])
      .sort(([a], [b]) => first(a) - first(b) || a.localeCompare(b));
  }

  // The training curve before its held-out twin, so that colours mean the same everywhere.
  const ordered = (names) => [...names].sort((a, b) => HELD_OUT.test(a) - HELD_OUT.test(b) || a.localeCompare(b));

  function data(names) {
    const x = [...steps.keys()].filter((step) => names.some((name) => name in steps.get(step)));
    x.sort((a, b) => a - b);
    return [x, ...names.map((name) => x.map((step) => steps.get(step)[name] ?? null))];
  }

  function short(value) {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
    return value.toLocaleString(undefined, { maximumSignificantDigits: 4 });
  }

  // As the page writes a share elsewhere: with one decimal, and a point in every language.
  const percent = (value) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(1)}%`);
  const textOf = (name) => (shares.has(name) ? percent : short);

  // Under the pointer, or the latest where there is none.
  function shown(write) {
    return (plot, value, series, index) => {
      if (index !== null && index !== undefined) return write(value);
      return write(plot.data[series].findLast((value) => value !== null));
    };
  }

  // No axis beyond 100%: a curve that stays at 100% would otherwise sit in the middle of 0 to 200%.
  function rangeOfShares(plot, low, high) {
    const [from, to] = uPlot.rangeNum(low ?? 0, high ?? 1, 0.1, true);
    return [Math.max(0, from), Math.min(1, to)];
  }

  function options(names, width) {
    const axis = {
      stroke: colour("--muted"), font: "12px system-ui",
      grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 },
    };
    return {
      width, height: 200,
      scales: { x: { time: false }, y: { range: shares.has(names[0]) ? rangeOfShares : undefined } },
      legend: { live: true },
      cursor: { sync: { key: "run" } },
      axes: [axis, { ...axis, size: 60, values: (_, ticks) => ticks.map(textOf(names[0])) }],
      series: [
        { label: "step", value: shown(short) },
        ...names.map((name, number) => ({
          label: label(name), stroke: colour(COLOURS[number % COLOURS.length]), width: 1.75,
          spanGaps: true, points: { show: steps.size < 12 }, value: shown(textOf(name)),
        })),
      ],
    };
  }

  function make(group, names) {
    const card = document.createElement("div");
    card.className = "card runs-curve";
    const heading = document.createElement("h3");
    heading.textContent = label(group);
    const body = document.createElement("div");
    card.append(heading, body);
    place.append(card);
    const plot = new uPlot(options(names, body.clientWidth), data(names), body);
    charts.set(group, { plot, names: names.join(), body, card });
  }

  function draw() {
    for (const [group, names] of groups()) {
      const chart = charts.get(group);
      if (chart && chart.names === names.join()) chart.plot.setData(data(names));
      else {
        if (chart) remove(group);
        make(group, names);
      }
    }
  }

  function remove(group) {
    const { plot, card } = charts.get(group);
    plot.destroy();
    card.remove();
    charts.delete(group);
  }

  function again() {
    for (const group of [...charts.keys()]) remove(group);
    draw();
  }

  function start(element, points) {
    place = element;
    shares = new Set((element.dataset.shares || "").split(" "));
    add(points);
    draw();
    new MutationObserver(again).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
    new ResizeObserver(() => {
      for (const { plot, body } of charts.values()) {
        if (body.clientWidth && body.clientWidth !== plot.width) {
          plot.setSize({ width: body.clientWidth, height: 200 });
        }
      }
    }).observe(place);
  }

  return { start, more: (points) => { add(points); draw(); }, count: () => steps.size };
})();
