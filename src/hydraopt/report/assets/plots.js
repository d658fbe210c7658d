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

// Of the candidates those that have room for their numbers, in order. place: value to pixels.
H.spaced = (candidates, place, apart) =>
  candidates.reduce((kept, x) => (kept.length && Math.abs(place(x) - place(kept.at(-1))) < apart ? kept : [...kept, x]), []);

// An axis of harm with 0 on it: linear below the knee, logarithmic above it. Domain and ticks are
// 1, 2 or 5 times a power of ten. length, apart: pixels of the axis, and between two ticks.
H.harmAxis = (values, knee, length, apart) => {
  const round = [1, 2, 5].flatMap((x) => d3.range(-6, 7).map((k) => Number(`${x}e${k}`))).sort((a, b) => a - b);
  const end = (most) => (most > 0 ? round.find((x) => x >= most) ?? most : 0);
  const [below, above] = [end(Math.max(0, ...values.map((x) => -x))), Math.max(knee, end(Math.max(...values)))];
  const place = d3.scaleSymlog([-below, above], [0, length]).constant(knee);
  const finest = above > knee || below > knee ? knee : knee / 10;
  // From 0 to the end of the axis, both included: a tick too near to the end gives way to it.
  const up = (most) => [...H.spaced([0, ...round.filter((x) => x >= finest && x < most)], place, apart)
    .filter((x) => !x || place(most) - place(x) >= apart), ...(most ? [most] : [])];
  const ticks = [...up(below).slice(1).map((x) => -x).reverse(), ...up(above)];
  return { type: "symlog", constant: knee, domain: [-below, above], ticks, tickFormat: (x) => `${+x.toPrecision(3)}`, grid: true };
};

H.sizePlot = (rows, key, whole, at, width) => {
  const measure = H.measures[key];
  const points = rows.filter((row) => row.values[key]).flatMap((row) => ["mean", "worst task"].map((which, i) => ({
    x: (100 * row.size) / whole.bytes, y: measure.scale * row.values[key][i], which, kind: row.kind,
    title: `${row.label}\n${which}: ${measure.text(row.values[key][i])}${i ? `\n${row.values[key][2]}` : ""}` })));
  const shares = points.map((x) => x.x);
  const [least, most] = [Math.min(...shares), Math.max(...shares)];
  const across = (x) => ((width - 98) * Math.log(x / least)) / Math.log(most / least || Math.E);
  const ticks = H.spaced([0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20, 30, 50, 100].filter((x) => x >= 0.95 * least && x <= 1.05 * most), across, 36);
  const of = (kind) => points.filter((x) => x.kind === kind);
  const height = Math.min(380, Math.max(260, width * 0.55));
  const [marginTop, marginBottom] = [34, 44];
  const harm = measure.knee ? H.harmAxis(points.map((x) => x.y), measure.knee, height - marginTop - marginBottom, 16) : { grid: true, zero: true, nice: true, ticks: 6 };
  return Plot.plot({
    width, height, marginLeft: 54, marginBottom, marginTop, marginRight: 24,
    style: { background: "transparent", color: "var(--ink)", fontSize: "13px" },
    x: { type: "log", inset: 10, label: `size, % of ${whole.name}`, tickFormat: (x) => `${+x.toPrecision(3)}`, ticks: ticks.length > 1 ? ticks : 4 },
    y: { label: measure.axis, labelOffset: 48, ...harm },
    color: { domain: ["mean", "worst task"], range: ["var(--accent)", "var(--warm)"] },
    symbol: { domain: ["mean", "worst task"], range: ["circle", "triangle"] },
    marks: [
      Plot.ruleY([0], { stroke: "currentColor", strokeOpacity: 0.4 }),
      Plot.dot(of("measured"), { x: "x", y: "y", stroke: "which", symbol: "which", r: 4.5, strokeWidth: 1.8 }),
      Plot.ruleX([(100 * rows[at].size) / whole.bytes], { stroke: "currentColor", strokeWidth: 1.5 }),
      Plot.dot(of("chosen"), { x: "x", y: "y", fill: "which", symbol: "which", r: 7, stroke: "var(--ground)", strokeWidth: 1.5 }),
      Plot.tip(points, Plot.pointer({ x: "x", y: "y", title: "title", fill: "var(--raised)" })),
    ],
  });
};

// What the marks of a size plot mean, beside the plot: a label in it would cover a line or a mark.
H.sizeKey = (rows) => {
  const kinds = { chosen: "large and filled: this bundle", measured: "small and hollow: another bundle that was scored" };
  return H.el("p", { class: "quiet" }, H.el("span", { class: "mean" }, "●"), " mean of the tasks, ", H.el("span", { class: "worst" }, "▲"), " worst task; ",
    Object.entries(kinds).filter(([kind]) => rows.some((row) => row.kind === kind)).map(([, text]) => text).join("; "), ".");
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
  const longest = Math.max(0, ...columns.map((x) => told(x).length));
  const below = options.xLabel ? 44 : !options.across ? (ticks?.length === 0 ? 6 : 28) : ticks ? 6 : 16 + 6 * longest;
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
  const shown = known.flatMap((row) => (changed ? [x(row)] : [row.low, row.high, x(row)]));
  // The dot of a group at 0 needs room beside the group's name.
  const [marginRight, inset] = [28, 10];
  return Plot.plot({
    width, height: 28 * known.length + 64, marginLeft: names, marginRight, marginBottom: 46,
    style: { background: "transparent", color: "var(--ink)", fontSize: "12px" },
    x: { label: changed ? "answers that change, %" : "score, bundle less original, points", labelOffset: 40, inset, ...H.harmAxis(shown, 1, width - names - marginRight - 2 * inset, 34) },
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
