"use strict";
// The plots, drawn by Observable Plot. Each has a label, and a table beside it that says the same.

// One picture with one name: the library names groups of marks, which no reader can reach.
H.picture = (svg, label) => {
  svg.querySelectorAll("[aria-label], [aria-description]").forEach((x) => { x.removeAttribute("aria-label"); x.removeAttribute("aria-description"); });
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", label);
  return svg;
};

// make: the width at hand to an SVG element. least: below it the plot scrolls.
H.figure = (label, caption, make, least = 300) => {
  const holder = H.region(label, "");
  const figure = H.el("figure", { class: "plot" }, holder, caption ? H.el("figcaption", {}, caption) : null);
  let last = 0;
  figure.draw = () => {
    const width = Math.max(least, Math.floor(holder.clientWidth || 640));
    last = width;
    const plot = make(width);
    const svg = plot.tagName === "svg" ? plot : plot.querySelector(":scope > svg:last-of-type");
    H.picture(svg, label);
    holder.replaceChildren(plot);
  };
  new ResizeObserver(() => { if (holder.clientWidth && Math.max(least, Math.floor(holder.clientWidth)) !== last) figure.draw(); }).observe(holder);
  return figure;
};

H.sizePlot = (rows, key, fp16, at, width) => {
  const measure = H.measures[key];
  const points = rows.filter((row) => row.values[key]).flatMap((row) => ["mean", "worst task"].map((which, i) => ({
    x: (100 * row.size) / fp16, y: measure.scale * row.values[key][i], which, kind: row.kind,
    title: `${row.label}\n${which}: ${measure.text(row.values[key][i])}${i ? `\n${row.values[key][2]}` : ""}` })));
  const shares = points.map((x) => x.x);
  const [least, most] = [Math.min(...shares), Math.max(...shares)];
  const across = (x) => ((width - 98) * Math.log(x / least)) / Math.log(most / least || Math.E);
  // A tick needs room for its number; of two that are too near, the later one goes.
  const ticks = [0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20, 30, 50, 100].filter((x) => x >= 0.95 * least && x <= 1.05 * most)
    .reduce((kept, x) => (kept.length && across(x) - across(kept.at(-1)) < 36 ? kept : [...kept, x]), []);
  const colour = { domain: ["mean", "worst task"], range: ["var(--accent)", "var(--warm)"] };
  const guessed = points.filter((x) => x.kind === "guessed");
  const measured = points.filter((x) => x.kind === "measured");
  const chosen = points.filter((x) => x.kind === "chosen");
  const left = !chosen.length || across(chosen[0].x) < (width - 98) / 2;
  return Plot.plot({
    width, height: Math.min(380, Math.max(260, width * 0.55)), marginLeft: 54, marginBottom: 44, marginTop: 24, marginRight: 24,
    style: { background: "transparent", color: "var(--ink)", fontSize: "13px" },
    x: { type: "log", inset: 10, label: "size, % of fp16", tickFormat: (x) => `${+x.toPrecision(3)}`, ticks: ticks.length > 1 ? ticks : 4 },
    y: { label: measure.axis, grid: true, zero: key !== "drop", nice: true, ticks: 6 },
    color: colour, symbol: { domain: ["mean", "worst task"], range: ["circle", "triangle"] },
    marks: [
      Plot.ruleY([0], { stroke: "currentColor", strokeOpacity: 0.4 }),
      Plot.line(guessed, { x: "x", y: "y", stroke: "which", strokeWidth: 2, strokeDasharray: "5 4" }),
      Plot.dot(measured, { x: "x", y: "y", stroke: "which", symbol: "which", r: 4.5, strokeWidth: 1.8 }),
      Plot.ruleX([(100 * rows[at].size) / fp16], { stroke: "currentColor", strokeWidth: 1.5 }),
      Plot.dot(chosen, { x: "x", y: "y", fill: "which", symbol: "which", r: 8, stroke: "var(--ground)", strokeWidth: 1.5 }),
      ...["mean", "worst task"].map((which, i) => Plot.text(chosen.filter((x) => x.which === which), {
        x: "x", y: "y", text: "which", dx: left ? 12 : -12, dy: i ? -9 : 9, textAnchor: left ? "start" : "end",
        fill: "currentColor", stroke: "var(--ground)", strokeWidth: 4 })),
      Plot.tip(points, Plot.pointer({ x: "x", y: "y", title: "title", fill: "var(--raised)" })),
    ],
  });
};

// cells: {x, y, value, title}. One colour scale from light to dark, its legend in text and colour.
H.heat = (cells, columns, rows, options, width) => {
  const wide = columns.length > 60;
  // Room for the names of rows: more, where they need it.
  const names = options.names > 190 ? Math.min(options.names, width * 0.42) : Math.min(190, Math.max(70, width * 0.27));
  const letters = Math.floor((names - 8) / 6.6);
  const cell = Math.max(options.square ? 14 : 5, (width - names - 12) / Math.max(columns.length, 1));
  const high = options.square ? Math.min(cell, 24) : 17;
  const across = options.square ? high * columns.length : cell * columns.length;
  const label = (text) => (options.yFormat || H.short)(text, letters);
  const told = options.xFormat || ((x) => H.short(String(x), 16));
  // A tick needs room for its text: where there is none, some go without.
  const step = Math.ceil((7 * Math.max(1, ...columns.map((x) => told(x).length)) + 4) / cell);
  const ticks = wide || options.noTicks ? [] : options.across ? undefined : columns.filter((_, i) => i % step === 0);
  const below = options.across ? 104 : options.xLabel ? 44 : 28;
  return Plot.plot({
    width: Math.ceil(across + names + 12), height: Math.ceil(high * rows.length + below + 6),
    marginLeft: names, marginRight: 12, marginTop: 6, marginBottom: below, padding: 0.04,
    style: { background: "transparent", color: "var(--ink)", fontSize: "11px" },
    x: { domain: columns, label: options.xLabel || null, labelOffset: 38, tickFormat: told, tickRotate: options.across ? -60 : 0, ticks, tickSize: 0 },
    y: { domain: rows, label: null, tickFormat: label, tickSize: 0 },
    color: options.colour,
    marks: [
      Plot.cell(cells, { x: "x", y: "y", fill: "value", inset: wide ? 0 : 0.4 }),
      Plot.tip(cells, Plot.pointer({ x: "x", y: "y", title: "title", fill: "var(--raised)" })),
    ],
  });
};

H.legend = (colour, label) => H.picture(
  Plot.legend({ color: { ...colour, label }, width: 284, marginLeft: 12, marginRight: 12, style: { background: "transparent", color: "var(--ink)", fontSize: "12px" } }),
  `Scale of the colours: ${label}, light is low, dark is high, up to ${Number(colour.domain[1].toPrecision(3))}`);

H.groupPlot = (rows, key, width) => {
  const names = Math.min(150, width * 0.32);
  const changed = key === "changed";
  const x = (row) => (changed ? 100 * row.changed : row.difference);
  const known = rows.filter((row) => !H.missing(changed ? row.changed : row.difference));
  return Plot.plot({
    width, height: 28 * known.length + 58, marginLeft: names, marginRight: 28, marginBottom: 40,
    style: { background: "transparent", color: "var(--ink)", fontSize: "12px" },
    x: { label: changed ? "answers that change, %" : "score, bundle less original, points", grid: true, nice: true, ticks: width < 480 ? 4 : 8,
      domain: changed ? [0, Math.max(1, ...known.map(x))] : [Math.min(-1, ...known.map((row) => row.low)), Math.max(1, ...known.map((row) => row.high))] },
    y: { domain: known.map((row) => row.name), label: null, tickSize: 0, tickFormat: (t) => H.short(t, Math.floor(names / 7)) },
    marks: [
      Plot.ruleX([0], { stroke: "currentColor", strokeOpacity: 0.5 }),
      changed ? Plot.ruleY(known, { y: "name", x1: 0, x2: x, stroke: "var(--accent)", strokeWidth: 3 })
        : Plot.ruleY(known, { y: "name", x1: "low", x2: "high", stroke: "var(--accent)", strokeWidth: 3 }),
      Plot.dot(known, { y: "name", x, fill: "var(--accent)", r: 5 }),
      Plot.tip(known, Plot.pointer({ y: "name", x, fill: "var(--raised)",
        title: (row) => `${row.name}: ${changed ? H.percent(row.changed) : H.interval(row)}, ${H.count(row.tasks, "task")}` })),
    ],
  });
};
