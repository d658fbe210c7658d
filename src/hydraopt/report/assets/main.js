"use strict";
// The overview's sections, and which page is shown: "#task=NAME" is a task's own.

H.sizes = (page) => {
  const rows = page.sizes;
  const whole = page.originals;
  const kinds = { chosen: "This bundle", measured: "Another bundle that was scored" };
  const own = rows.find((row) => row.kind === "chosen");
  const share = (row) => (whole.bytes ? H.percent(row.size / whole.bytes, 2) : "-");
  const sized = (row) => `${H.bytes(row.size)}${whole.bytes ? `, ${share(row)} of ${whole.name}` : ""}`;
  const facts = (row) => [H.el("p", {}, H.el("strong", {}, sized(row)), `. ${kinds[row.kind]}: ${row.label}.`),
    H.el("ul", {}, Object.entries(row.values).map(([name, [mean, worst, task]]) => {
      const { label, text } = H.measures[name];
      return H.el("li", {}, `${label}: ${text(mean)} in the mean, ${text(worst)} in the worst task, ${task}`);
    }))];
  const output = H.el("div", { class: "card", role: "status" }, facts(own));
  const section = (...parts) => H.section("sizes", "Size against harm", parts);
  const known = Object.keys(H.measures).filter((key) => rows.some((row) => row.values[key]));
  // A measure of one size alone has no curve, and a slider would lead nowhere.
  const drawn = known.filter((key) => rows.filter((row) => row.values[key]).length > 1);
  if (!drawn.length) return section(output);
  let key = ["changed", "likely", "drop", "error"].find((x) => own.values[x] && rows.filter((row) => row.values[x]).length > 2) || drawn.find((x) => own.values[x]) || drawn[0];
  let shown, at;
  const slider = H.el("input", { type: "range", id: "size", min: 0, step: 1, on: { input: () => { at = Number(slider.value); update(); } } });
  const marks = H.el("div");
  const figure = H.figure("Size against harm, mean and worst task", null, (width) => H.sizePlot(shown, key, whole.bytes ? whole : { ...whole, bytes: page.size }, at, width), 300);
  const update = () => {
    slider.setAttribute("aria-valuetext", sized(shown[at]));
    output.replaceChildren(...facts(shown[at]));
    figure.draw();
  };
  const choose = (value) => {
    key = value;
    shown = rows.filter((row) => row.values[key]);
    at = Math.max(0, shown.indexOf(own));
    marks.replaceChildren(H.sizeKey(shown));
    slider.max = shown.length - 1;
    slider.value = at;
    update();
  };
  const table = () => H.table("All sizes: mean, and worst task", [{ head: "size" }, { head: `of ${whole.name}`, number: true }, { head: "what", text: true }, ...known.map((x) => ({ head: H.measures[x].label, number: true }))],
    rows.map((row) => [H.bytes(row.size), share(row), `${kinds[row.kind]}${row.kind === "measured" ? `: ${row.label}` : ""}`,
      ...known.map((x) => (row.values[x] ? `${H.measures[x].text(row.values[x][0])}; ${H.measures[x].text(row.values[x][1])}` : "-"))]));
  choose(key);
  return section(H.el("div", { class: "controls" }, H.choice("measure", "Harm as", drawn.map((x) => [x, H.measures[x].label]), key, choose)),
    marks, figure, H.el("div", {}, H.el("label", { for: "size" }, "Another size"), slider), output, H.details("All sizes as a table", table));
};

H.groups = (page) => {
  const part = (rows, name, title) => {
    if (!rows.length) return [];
    const scored = rows.some((x) => !H.missing(x.difference));
    const changed = rows.some((x) => !H.missing(x.changed));
    const key = changed ? "changed" : "difference";
    const figure = changed || scored ? H.figure(`${title}: ${changed ? "answers that change" : "change of scores"}`, null, (width) => H.groupPlot(rows.slice(0, 40), key, width)) : null;
    if (figure) figure.draw();
    const table = H.table(title, [{ head: name, text: true }, { head: "tasks", number: true }, ...(changed ? [{ head: "answers that change", number: true }] : []),
      ...(scored ? [{ head: "score change [95\u00a0%]", number: true }] : []), { head: "mean error", number: true }, { head: "most harmed", wide: true, text: true }],
      rows.slice(0, 200).map((x) => [x.name, H.whole(x.tasks), ...(changed ? [H.percent(x.changed)] : []), ...(scored ? [H.interval(x)] : []), H.error(x.error), H.taskLink(x.worst)]));
    return [H.el("h3", {}, title), figure, table];
  };
  const parts = [...part(page.languages, "language", "By language"), ...part(page.groups, "group", "By group")];
  return H.section("groups", "What changed for which language and group",
    H.el("p", {}, "Means over the tasks of each. An interval (95 %) is of the rows alone: how far other rows of the same tasks might move the mean."),
    parts);
};

H.manyPeople = 16;
H.people = (page) => {
  const p = (x) => (x.p < 0.001 ? "< 0.001" : x.p.toFixed(3));
  const share = (x) => (H.missing(x) ? "-" : H.percent(x));
  const clear = page.people.filter((x) => x.group && x.p < 0.05);
  const task = { head: "task", text: true };
  const count = (head) => ({ head, number: true });
  const probes = (title, rows, whole = false) => H.table(title, [task, { head: "probe", text: true }, ...(whole ? [] : [{ head: "group", text: true }]), count("flips"), count("towards"), count("away"), count("p"), count("items"), count("original"), count("bundle [95\u00a0%]")],
    rows.map((x) => [H.taskLink(x.task), x.probe, ...(whole ? [] : [x.group]), H.whole(x.flips), H.whole(x.towards), H.whole(x.away), p(x), H.whole(x.items), share(x.before), `${share(x.now)} [${share(x.low)}, ${share(x.high)}]`]));
  // Of many rows those that changed most, and all of them on a click.
  const whole = page.people.filter((x) => !x.group), title = "Each probe as a whole";
  const first = [...whole].sort((a, b) => a.p - b.p || b.flips / b.items - a.flips / a.items).slice(0, H.manyPeople);
  const parts = [H.el("p", {}, "Choices that follow a stereotype, of all that take a side: half of them by chance. Flips are choices that change against the original; p tells whether their direction may be chance, corrected for many tests."),
    ...(whole.length <= H.manyPeople ? [probes(title, whole, true)] : [probes(`${title}: the ${first.length} that changed most`, first, true), H.details(`All ${H.whole(whole.length)} rows`, () => probes(title, whole, true))]),
    H.el("p", {}, clear.length ? `${H.count(clear.length, "group")} changed in one direction by more than chance:` : "No group changed in one direction by more than chance."), clear.length ? probes("Groups that changed", clear) : null,
    H.details("All groups", () => probes("All groups", page.people.filter((x) => x.group)))];
  return H.section("people", "What it does to people", parts);
};

H.map = (page) => {
  const { tasks, columns, errors, bytes, note } = page.map;
  if (!tasks.length) return H.section("map", "Where error and bytes are", H.el("p", {}, "Nothing is coded."));
  const kinds = [["errors", "relative error"], ...(bytes.length ? [["bytes", "bytes"]] : [])];
  const holder = H.el("div");
  const draw = (key) => {
    const values = page.map[key];
    const text = key === "errors" ? H.error : H.bytes;
    const cells = tasks.flatMap((y, i) => columns.map((x, j) => ({ x, y, value: values[i][j], title: `${y}\n${x}\n${text(values[i][j])}` })).filter((x) => !H.missing(x.value)));
    const top = d3.max(cells, (x) => x.value) || 1;
    const colour = key === "errors" ? H.errorColour(cells.map((x) => x.value)) : { type: "sqrt", scheme: "YlGnBu", domain: [0, top] };
    const figure = H.figure(`Map of tasks and modules: ${key === "errors" ? "relative error" : "bytes"}`, `Down: tasks, ${page.judged_by === "error" ? "the largest errors" : "the most harmed"} first. Across: ${columns.length} ${note.includes("type") ? "types of modules" : "modules"} in the order of the layers. ${note}`,
      (width) => H.heat(cells, columns, tasks, { colour, noTicks: true }, width), 320);
    holder.replaceChildren(H.legend(colour, key === "errors" ? "relative error" : "bytes"), figure);
    figure.draw();
  };
  draw("errors");
  return H.section("map", "Where error and bytes are",
    H.el("div", { class: "controls" }, H.choice("map-of", "Map of", kinds, "errors", draw)), holder,
    H.el("p", { class: "quiet" }, "Every module of a task is on the task's page."));
};

H.shared = (page) => {
  const parts = [];
  const total = page.size || 1;
  parts.push(H.el("h3", {}, "Where the bytes are"), H.table("Bytes of the file", [{ head: "what" }, { head: "bytes", number: true }, { head: "of the file", number: true }],
    page.parts.map(([what, size]) => [what, H.whole(size), { text: H.percent(size / total), share: size / total }])));
  const records = d3.sum(page.forms, (x) => x[1]) || 1;
  if (page.forms.length) parts.push(H.el("h3", {}, "Forms"), H.table("In which form a module of a task is kept", [{ head: "form" }, { head: "modules of tasks", number: true }, { head: "share", number: true }],
    page.forms.map(([form, count]) => [form, H.whole(count), { text: H.percent(count / records), share: count / records }])));
  if (page.alike) {
    const { tasks, cosines, pairs, note } = page.alike;
    const cells = tasks.flatMap((y, i) => tasks.map((x, j) => ({ x, y, value: cosines[i][j] === null ? null : cosines[i][j] / 100, title: `${y}\n${x}\ncosine ${cosines[i][j] === null ? "-" : (cosines[i][j] / 100).toFixed(2)}` })));
    const off = cells.filter((x) => x.x !== x.y && x.value !== null).map((x) => x.value);
    const top = Math.max(0.1, ...off);
    const colour = { type: "linear", scheme: "YlGnBu", domain: [Math.min(0, ...off), top], clamp: true };
    const figure = H.figure("Likeness of the tasks, alike ones together", `Cosines of the tasks' products dW over all modules; the scale ends at the most alike pair. ${note}`,
      (width) => H.heat(cells, tasks, tasks, { colour, square: true, across: true, noTicks: tasks.length > 60 }, width), 320);
    figure.draw();
    parts.push(H.el("h3", {}, "How alike the tasks are"), H.legend(colour, "cosine"), figure,
      H.table("The most alike pairs", [{ head: "task", text: true }, { head: "and", text: true }, { head: "cosine", number: true }], pairs.map(([a, b, x]) => [H.taskLink(a), H.taskLink(b), (x / 100).toFixed(2)])));
  } else parts.push(H.el("p", { class: "quiet" }, "There are not two coded tasks whose products dW are compared."));
  return H.section("shared", "What is shared with whom", parts);
};

H.examples = (source, page) => {
  const list = H.el("div");
  const status = H.el("p", { class: "quiet", role: "status" });
  let shown = 0;
  const more = async () => {
    const said = await source.examples(shown, 6);
    list.append(...said.examples.map((x) => H.example(x, true)));
    shown += said.examples.length;
    status.textContent = said.total ? `${H.whole(shown)} of ${H.count(said.total, "row")}, changed ones first.` : "No answers were kept: hydraopt eval --answers 20 -o FILE.json keeps some, and --results FILE.json shows them here.";
    button.hidden = shown >= said.total;
    marks.hidden = !said.total;
  };
  const button = H.el("button", { type: "button", hidden: true, on: { click: more } }, "Show more rows");
  const marks = H.marks();
  marks.hidden = true;
  more();
  return H.section("examples", "Answers side by side", marks, status, list, button);
};

H.made = (page) => H.section("made", "How it was made", H.facts(page.made.map(([name, text]) => [name, H.el("code", {}, text)])),
  page.notes.length ? [H.el("h3", {}, "Notes"), H.el("ul", {}, page.notes.map((x) => H.el("li", {}, x.text)))] : []);

H.start = async () => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const source = H.source(page);
  const [overview, single] = ["overview", "single"].map((id) => document.getElementById(id));
  document.getElementById("title").textContent = page.name;
  document.title = `${page.name}: hydraopt report`;
  // A section that has nothing to say of these tasks is left out.
  const sections = [
    ["sizes", "Size against harm", () => H.sizes(page)],
    ["tasks", "Tasks", () => H.taskList(source, page)],
    ["examples", "Answers", () => H.examples(source, page), !page.image],
    ["groups", "Languages and groups", () => H.groups(page), page.languages.length + page.groups.length],
    ["people", "People", () => H.people(page), page.people.length],
    ["map", "Map", () => H.map(page)],
    ["shared", "Shared", () => H.shared(page)],
    ["made", "How it was made", () => H.made(page)],
  ].filter(([, , , has = true]) => has);
  document.getElementById("sections").replaceChildren(...sections.map(([id, text]) => H.el("a", { href: `#${id}` }, text)));
  // Shown before it is filled: plots ask for the width at hand.
  overview.append(H.el("section", { "aria-label": "Summary" }, H.el("ul", { class: "summary" }, page.summary.map((x) => H.el("li", {}, x)))));
  for (const [, , make] of sections) overview.append(make());
  const route = async () => {
    const hash = location.hash;
    if (!hash.startsWith("#task=")) {
      const back = !single.hidden;
      single.hidden = true;
      overview.hidden = false;
      const place = hash.length > 1 ? document.getElementById(hash.slice(1)) : null;
      if (back && place) { place.scrollIntoView(); place.querySelector("h2")?.focus({ preventScroll: true }); }
      return;
    }
    let name = "";
    try { name = decodeURIComponent(hash.slice(6)); } catch { /* not a name: no task has it */ }
    const said = await source.task(name);
    overview.hidden = true;
    single.hidden = false;
    single.replaceChildren(said ? H.taskPage(page, said) : H.section("task", "No such task", H.el("p", {}, H.el("a", { href: "#tasks" }, "← All tasks"))));
    single.querySelectorAll("figure.plot").forEach((figure) => figure.draw());
    window.scrollTo(0, 0);
    single.querySelector("h2").focus({ preventScroll: true });
  };
  addEventListener("hashchange", () => route().catch(H.failed));
  await route();
  document.body.dataset.ready = String(Math.round(performance.now()));
};

H.failed = (error) => document.getElementById("main").prepend(H.el("p", { role: "alert", class: "changed" }, `The page could not be drawn: ${error.message}`));
H.start().catch(H.failed);
