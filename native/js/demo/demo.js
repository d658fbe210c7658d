import { openBundle } from "hydraopt";

const $ = (id) => document.getElementById(id);
let bundle;

function say(text, wrong = false) {
  $("status").textContent = text;
  $("status").classList.toggle("wrong", wrong);
}

/** Runs a job, and says what went wrong if something does. */
async function trying(what, job) {
  say(`${what} …`);
  try {
    say(await job());
  } catch (error) {
    say(error.message, true);
  }
}

const kilobytes = (bytes) => (bytes / 1000).toLocaleString("en", { maximumFractionDigits: 1 });
const percent = (share) => `${(100 * share).toLocaleString("en", { maximumFractionDigits: 2 })} %`;

function save({ name, data }, task) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([data]));
  link.download = `${task}-${name}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

async function extract(task, to) {
  await trying(`Reading ${task}`, async () => {
    const config = $("config").files[0];
    if (to === "gguf" && !config) throw new Error("choose the base model's config.json first");
    const start = performance.now();
    const files = await bundle.extract(task, { to, baseConfig: config && (await config.text()) });
    const took = performance.now() - start;
    files.filter((file) => !file.name.endsWith(".md")).forEach((file) => save(file, task));
    const size = files.reduce((sum, file) => sum + file.data.length, 0);
    facts();
    return `${task}: ${kilobytes(size)} kB in ${Math.round(took)} ms`;
  });
}

function button(text, label, act) {
  const element = document.createElement("button");
  element.type = "button";
  element.textContent = text;
  element.setAttribute("aria-label", label);
  element.addEventListener("click", act);
  return element;
}

function row(task) {
  const line = document.createElement("tr");
  const harm = task.harm === null ? "not measured" : percent(task.harm);
  const size = task.lossless ? "kept whole" : kilobytes(task.streamBytes);
  const cells = [task.name, size, percent(task.error), harm];
  for (const [i, text] of cells.entries()) {
    const cell = line.insertCell();
    cell.textContent = text;
    if (i) cell.className = "number";
  }
  line.insertCell().append(
    button("PEFT", `${task.name} as PEFT files`, () => extract(task.name, "peft")),
    button("GGUF", `${task.name} as GGUF`, () => extract(task.name, "gguf")),
  );
  return line;
}

function facts() {
  const read = `${kilobytes(bundle.bytesRead)} of ${kilobytes(bundle.size)} kB read`;
  const base = bundle.baseModel ? `for ${bundle.baseModel}, ` : "";
  $("facts").textContent = `${bundle.tasks.length} tasks ${base}${read}`;
}

async function open(from, name) {
  await trying(`Opening ${name}`, async () => {
    const next = await openBundle(from);
    bundle?.close();
    bundle = next;
    $("title").textContent = name;
    $("tasks").replaceChildren(...bundle.tasks.map(row));
    $("bundle").hidden = false;
    facts();
    return "";
  });
}

document.querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const files = [...$("file").files];
  const url = $("url").value.trim();
  if (files.length) open(files.length === 1 ? files[0] : files, files[0].name);
  else if (url) open(url, url);
  else say("choose a file, or give an address", true);
});
$("file").addEventListener("change", () => document.querySelector("form").requestSubmit());

const given = new URLSearchParams(location.search).get("bundle");
if (given) open(new URL(given, location.href), given);
