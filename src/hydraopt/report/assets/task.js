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

H.layerPlot = (page, layers) => {
  const cells = layers.modules.map((index, i) => {
    const path = page.modules[index];
    const number = /(?:^|[._:])(\d+)(?=[._:])/.exec(path);
    const kind = number ? path.slice(number.index + number[0].length + 1) : path;
    const bytes = H.missing(layers.bytes[i]) ? "" : `, ${H.bytes(layers.bytes[i])}`;
    return { x: number ? Number(number[1]) : 0, y: kind, value: layers.errors[i], title: `${path}\nerror ${H.error(layers.errors[i])}${bytes}\n${layers.forms[i] || ""}` };
  });
  const columns = [...new Set(cells.map((x) => x.x))].sort((a, b) => a - b);
  const rows = [...new Set(cells.map((x) => x.y))];
  const colour = H.errorColour(layers.errors);
  const figure = H.figure("Relative error of each module of the task, by layer and type", "Across: the layer. Down: the module in it.",
    (width) => H.heat(cells, columns, rows.slice(0, 60), { colour, xFormat: (x) => String(x), xLabel: "layer" }, width), 320);
  return [H.legend(colour, "relative error"), figure];
};

H.errorColour = (values) => ({ type: "linear", scheme: "YlGnBu", domain: [0, Math.max(0.1, ...values.filter((x) => !H.missing(x)))] });

H.taskPage = (page, said) => {
  const { task, layers, examples } = said;
  const judged = task.judged;
  const facts = H.facts([
    ["answers that change", task.measured ? `${H.percent(task.harm)}: ${task.measured}` : "not measured"],
    ["likely to change", H.missing(task.likely) ? null : H.percent(task.likely, 2)],
    ["KL an answer", H.missing(task.kl) ? null : H.nats(task.kl)],
    ["relative error", task.lossless ? "none: kept bit by bit" : H.error(task.error)],
    ["bytes", `${H.bytes(task.own_bytes + task.carried_bytes)} of its own (${H.bytes(task.fp16_bytes)} in fp16)`],
    ["modules", `${task.modules}${task.tensors ? `, and ${H.count(task.tensors, "further tensor")}` : ""}`],
    ["language", task.language], ["group", task.group], ["kind", task.kind],
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
    H.el("h3", {}, "Layers"), rows && rows.length ? H.layerPlot(page, layers) : H.el("p", {}, rows ? "Nothing is coded." : "This page has no layers of this task; hydraopt explore has."), table, tensors,
    H.el("h3", {}, "Answers"),
    examples.length ? [H.marks(), ...examples.map((x) => H.example(x, false))] : H.el("p", {}, "No answers were kept. hydraopt eval --answers 20 keeps some."));
};
