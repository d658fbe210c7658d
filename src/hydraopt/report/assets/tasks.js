"use strict";
// The list of tasks: filters, an order, pages of fifty.

H.taskList = (source, page) => {
  const wanted = { query: "", language: "", group: "", kind: "", sort: "harm", up: false, from: 0 };
  const status = H.el("p", { class: "quiet", role: "status" });
  const list = H.el("div");
  const scored = page.judged_by !== "error";
  const judged = page.sizes.some((row) => row.kind === "chosen" && row.values.drop);
  const names = { results: "Answers that change", manifest: "Answers that change", error: "Answers" };
  const columns = [
    { head: "Task", sort: "name", text: true },
    { head: names[page.judged_by], sort: "harm", number: true },
    ...(judged ? [{ head: "Score change", sort: "drop", number: true }] : []),
    { head: "Error", sort: "error", number: true },
    { head: "Own bytes", sort: "size", number: true },
    // The same in every row, unless it is a filter.
    ...[["language", "Language"], ["group", "Group"]].filter(([key]) => page.filters[key].length).map(([key, head]) => ({ head, key, wide: true, text: true })),
    { head: "Kind", key: "kind", wide: true },
  ].filter((x) => scored || x.sort !== "harm");
  let asked = 0;

  const heads = (column, i, kind) => {
    if (!column.sort) return H.el("th", { scope: "col", class: kind || null }, column.head);
    const mine = wanted.sort === column.sort;
    const down = column.sort === "name" ? wanted.up : !wanted.up;
    const act = () => {
      wanted.up = mine ? !wanted.up : false;
      Object.assign(wanted, { sort: column.sort, from: 0 });
      refresh().then(() => list.querySelector(`th:nth-child(${i + 1}) button`)?.focus());
    };
    return H.el("th", { scope: "col", class: kind || null, "aria-sort": mine ? (down ? "descending" : "ascending") : null },
      H.el("button", { type: "button", on: { click: act } }, `${column.head}${mine ? (down ? " ↓" : " ↑") : ""}`));
  };

  const row = (task) => {
    const own = task.own_bytes + task.carried_bytes;
    return [
      H.taskLink(task.name),
      ...(scored ? [H.missing(task.harm) ? "not measured" : { text: H.percent(task.harm), share: task.harm }] : []),
      ...(judged ? [H.points(task.judged?.difference)] : []),
      task.lossless ? "lossless" : H.error(task.error), H.bytes(own), ...columns.filter((x) => x.key).map((x) => task[x.key]),
    ];
  };

  const turn = (step) => { wanted.from = Math.max(0, wanted.from + step * H.perPage); return refresh(); };
  const refresh = async () => {
    const mine = ++asked;
    const said = await source.tasks(wanted);
    if (mine !== asked) return;  // a later question is on its way
    const last = Math.min(wanted.from + said.tasks.length, said.total);
    status.textContent = said.total ? `${H.whole(wanted.from + 1)} to ${H.whole(last)} of ${H.count(said.total, "task")}` : "No task is like that.";
    const more = said.total > H.perPage;
    const button = (text, step, off) => H.el("button", { type: "button", disabled: off, on: { click: () => turn(step).then(() => status.scrollIntoView({ block: "nearest" })) } }, text);
    list.replaceChildren(
      said.total ? H.table("The tasks of this filter", columns, said.tasks.map(row), heads) : "",
      more ? H.el("div", { class: "controls" }, button("Previous", -1, wanted.from === 0), button("Next", 1, last >= said.total)) : "");
  };

  let waiting = null;
  const typed = (event) => {
    wanted.query = event.target.value;
    wanted.from = 0;
    clearTimeout(waiting);
    waiting = setTimeout(refresh, 150);
  };
  const search = H.el("div", {}, H.el("label", { for: "query" }, "Name has"),
    H.el("input", { id: "query", type: "search", autocomplete: "off", on: { input: typed } }));
  const filter = (key, label) => page.filters[key].length === 0 ? null :
    H.choice(`by-${key}`, label, [["", "all"], ...page.filters[key].map((x) => [x, x])], "", (value) => { wanted[key] = value; wanted.from = 0; refresh(); });
  const orders = columns.filter((x) => x.sort).map((x) => [x.sort, x.head.toLowerCase()]);
  const order = H.choice("order", "Order by", orders, scored ? "harm" : "error", (value) => { Object.assign(wanted, { sort: value, up: false, from: 0 }); refresh(); });
  if (!scored) wanted.sort = "error";
  refresh();
  return H.section("tasks", "Tasks",
    H.el("p", {}, `${scored ? "The most harmed tasks come first." : `The largest errors come first${page.image ? "" : ": harm was not measured"}.`} A name leads to the task's own page.`),
    H.el("div", { class: "controls", role: "search", "aria-label": "Filter tasks" }, search, filter("language", "Language"), filter("group", "Group"), filter("kind", "Kind"), order),
    status, list);
};
