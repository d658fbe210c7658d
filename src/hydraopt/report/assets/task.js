"use strict";
// A task's own page, and examples of answers.

H.example = (row, named) => {
  const answer = (title, text) => H.el("div", {}, H.el("p", { class: "who" }, title), H.el("p", { dir: "auto" }, H.missing(text) ? "(not written)" : text === "" ? "(nothing)" : text));
  const pieces = (side) => row.marked.filter(([kind]) => kind === "same" || kind === side).map(([kind, text]) =>
    kind === "same" ? text : H.el(side === "removed" ? "del" : "ins", {}, text));
  const own = (title, side, text) => row.marked.length
    ? H.el("div", {}, H.el("p", { class: "who" }, title), H.el("p", { dir: "auto" }, pieces(side)))
    : answer(title, text);
  const verdict = row.changed ? H.el("span", { class: "changed" }, "≠ changed") : H.el("span", { class: "quiet" }, "= the same");
  return H.el("article", { class: "card", "aria-label": `Row ${row.row} of ${row.task}` },
    H.el("p", {}, named ? [H.taskLink(row.task), ", "] : "", `row ${row.row}: `, verdict),
    H.el("div", { class: "asked" }, answer("asked", row.input), answer("expected", row.expected)),
    H.el("div", { class: "answers" }, answer("base model", row.base), own("original adapter", "removed", row.original), own("from the bundle", "added", row.bundle)));
};

H.marks = () => H.el("p", { class: "quiet" }, "Marked: ", H.el("del", {}, "only the original wrote this"), " and ", H.el("ins", {}, "only the bundle wrote this"), ".");

// Modules by layer: a row is a path but for its first number, the layer, which is the column.
H.mostKinds = 60;
H.layerPlot = (page, layers) => {
  const heads = new Map();
  const cells = layers.modules.map((index, i) => {
    const path = page.modules[index];
    const number = /(^|[._:])(\d+)(?=[._:])/.exec(path);
    const head = number ? path.slice(0, number.index + number[1].length) : "";
    const kind = number ? `${head}*${path.slice(head.length + number[2].length)}` : path;
    if (number) heads.set(kind, head);
    const bytes = H.missing(layers.bytes[i]) ? "" : `, ${H.bytes(layers.bytes[i])}`;
    return { x: number ? Number(number[2]) : 0, y: kind, value: layers.errors[i], title: `${path}\nerror ${H.error(layers.errors[i])}${bytes}\n${layers.forms[i] || ""}` };
  });
  const columns = [...new Set(cells.map((x) => x.x))].sort((a, b) => a - b);
  const kinds = [...new Set(cells.map((x) => x.y))];
  const rows = kinds.slice(0, H.mostKinds);
  // What stands before all the numbers alike goes without saying.
  const before = [...new Set(heads.values())];
  const shared = H.beginning(before);
  const label = (kind) => (heads.has(kind) ? kind.slice(before.length > 1 ? shared.length : shared.length + 2) : kind);
  const names = Math.min(320, 6.6 * Math.max(...rows.map((x) => label(x).length)) + 8);
  const colour = H.errorColour(layers.errors);
  const cut = kinds.length > rows.length ? ` The first ${rows.length} of ${H.whole(kinds.length)} kinds of modules; the table has all.` : "";
  const shown = new Set(rows);
  const figure = H.figure("Relative error of each module of the task, by layer and type", `Across: the layer. Down: the module in it.${cut}`,
    (width) => H.heat(cells.filter((x) => shown.has(x.y)), columns, rows, { colour, names, xFormat: (x) => String(x), xLabel: "layer", yFormat: (x, most) => H.shortPath(label(x), most) }, width), 320);
  return [H.legend(colour, "relative error"), figure];
};

H.errorColour = (values) => ({ type: "linear", scheme: "YlGnBu", domain: [0, Math.max(0.1, ...values.filter((x) => !H.missing(x)))] });

H.taskPage = (page, said) => {
  const { task, layers, examples } = said;
  const judged = task.judged;
  const facts = H.facts([
    ["answers that change", task.measured ? `${H.percent(task.harm)}: ${task.measured}` : page.image ? null : "not measured"],
    ["likely to change", H.missing(task.likely) ? null : H.percent(task.likely, 2)],
    ["KL an answer", H.missing(task.kl) ? null : H.nats(task.kl)],
    ["relative error", task.lossless ? "none: kept bit by bit" : H.error(task.error)],
    ["bytes", `${H.bytes(task.own_bytes + task.carried_bytes)} of its own; the original has ${H.bytes(task.original_bytes)}${task.lossless && page.originals.stored !== "fp16" ? "" : " in fp16"}`],
    ["modules", `${task.modules}${task.tensors ? `, and ${H.count(task.tensors, "further tensor")}` : ""}`],
    ...["language", "group"].filter((key) => page.filters[key].length).map((key) => [key, task[key]]), ["kind", task.kind],
    ["base model", task.base_model], ["added", task.added],
    ["equal tasks", task.shared_with.length ? task.shared_with.join(", ") : null],
  ]);
  const scores = !judged ? null : H.el("div", {}, H.el("h3", {}, "Scores"),
    H.table(`${judged.metric} on ${H.count(judged.rows, "row")}, in percent`,
      [{ head: "who" }, { head: "score", number: true }, { head: "against the original [95\u00a0%]", number: true }],
      [["base model", H.score(judged.base), "-"], ["original adapter", H.score(judged.original), "-"], ["from the bundle", H.score(judged.bundle), H.interval(judged)]]));
  const rows = !layers ? null : layers.modules.map((index, i) => [page.modules[index], H.error(layers.errors[i]), H.bytes(layers.bytes[i]), layers.forms[i] || "-"]);
  const table = !rows ? null : H.details(`All ${rows.length} modules as a table`, () => H.table("Modules", [{ head: "module", text: true }, { head: "error", number: true }, { head: "bytes", number: true }, { head: "form" }], rows));
  const tensors = layers?.tensors?.length ? H.table("Coded tensors", [{ head: "tensor", text: true }, { head: "shape" }, { head: "bytes", number: true }, { head: "error", number: true }],
    layers.tensors.map((x) => [x.key, x.shape, H.bytes(x.bytes), H.error(x.error)])) : null;
  const notes = task.notes.length ? [H.el("h3", {}, "Notes"), H.el("ul", {}, task.notes.map((x) => H.el("li", {}, x)))] : [];
  return H.section("task", task.name, H.el("p", {}, H.el("a", { href: "#tasks" }, "← All tasks")), facts, scores, notes,
    H.el("h3", {}, "Layers"), rows && rows.length ? H.layerPlot(page, layers) : H.el("p", {}, rows ? "Nothing is coded." : "This page has no layers of this task; hydraopt report --serve has."), table, tensors,
    page.image ? [] : [H.el("h3", {}, "Answers"),
      examples.length ? [H.marks(), ...examples.map((x) => H.example(x, false))] : H.el("p", {}, "No answers were kept. hydraopt eval --answers 20 keeps some.")]);
};
