"use strict";
// Elements made of text: nothing here takes HTML, so a name cannot become any.

H.el = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "on") for (const [event, act] of Object.entries(value)) node.addEventListener(event, act);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(key, value);
  }
  for (const child of children.flat(Infinity)) if (child !== null && child !== undefined) node.append(child);
  return node;
};

// A name breaks after its separators rather than within a word. No lookbehind: older browsers would
// read none of the page's script.
H.breakable = (text) => (text.match(/[^_./:]*[_./:]|[^_./:]+/g) || []).flatMap((part, i) => (i ? [H.el("wbr"), part] : [part]));

H.region = (label, child) => H.el("div", { class: "scroll", role: "region", "aria-label": label, tabindex: "0" }, child);

// columns: {head, number, wide, text}; a cell is a text or a node, or {share, text} for a bar behind it.
H.table = (caption, columns, rows, heads) => {
  const kind = (column) => [column.number && "number", column.wide && "wide", column.text && "text"].filter(Boolean).join(" ");
  const head = columns.map((x, i) =>
    heads ? heads(x, i, kind(x)) : H.el("th", { scope: "col", class: kind(x) || null }, x.head));
  const cell = (value, column, i) => {
    const bar = value !== null && typeof value === "object" && !(value instanceof Node);
    const node = H.el(i ? "td" : "th", { scope: i ? null : "row", class: `${kind(column)}${bar ? " share" : ""}` || null },
      bar ? value.text : column.text && typeof value === "string" ? H.breakable(value) : value);
    if (bar && value.share) node.style.setProperty("--share", `${Math.min(100, Math.max(0, 100 * value.share))}%`);
    return node;
  };
  const body = rows.map((row) => H.el("tr", {}, row.map((value, i) => cell(value, columns[i], i))));
  return H.region(caption, H.el("table", {}, H.el("caption", {}, caption),
    H.el("thead", {}, H.el("tr", {}, head)), H.el("tbody", {}, body)));
};

H.details = (summary, make) => {
  const node = H.el("details", {}, H.el("summary", {}, summary));
  node.addEventListener("toggle", () => { if (node.open && node.childElementCount === 1) node.append(make()); });
  return node;
};

H.section = (id, title, ...children) =>
  H.el("section", { id, "aria-labelledby": `${id}-title` }, H.el("h2", { id: `${id}-title`, tabindex: "-1" }, title), children);

H.choice = (id, label, options, value, act) => {
  const select = H.el("select", { id, on: { change: () => act(select.value) } },
    options.map(([key, text]) => H.el("option", { value: key, selected: key === value }, text)));
  return H.el("div", {}, H.el("label", { for: id }, label), select);
};

H.facts = (pairs) => H.el("dl", { class: "facts" },
  pairs.filter(([, value]) => !H.missing(value) && value !== "").flatMap(([name, value]) => [H.el("dt", {}, name), H.el("dd", {}, value)]));

H.taskLink = (name) => H.el("a", { href: `#task=${encodeURIComponent(name)}` }, H.breakable(name));
