/** What the package reads in bundles, a line of JSON for each (conformance/README.md):
 * node test/conformance.js PATH... */
import { createHash } from "node:crypto";
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";

import { HydraError, openBundle } from "hydraopt";

function hash(...parts) {
  const sha = createHash("sha256");
  for (const part of parts) sha.update(new Uint8Array(part.buffer, part.byteOffset, part.byteLength));
  return sha.digest("hex").slice(0, 16);
}

/** The result of a call, or the code of the error that it throws. */
async function orCode(call) {
  try {
    return await call();
  } catch (error) {
    if (error instanceof HydraError) return error.code;
    throw error;
  }
}

async function modules(bundle, task) {
  const found = {};
  if (task.lossless) return found;
  for await (const { path, k, a, b } of bundle.pairs(task.name, { dtype: "float64" }))
    found[path] = [k, k ? hash(b, a) : hash()];
  return found;
}

async function tensors(bundle, { name }) {
  const all = await bundle.tensors(name);
  return Object.fromEntries(all.map((x) => [x.key, [x.dtype, x.shape, hash(x.data)]]));
}

async function adapter(bundle, { name }) {
  const files = await bundle.extract(name);
  return Object.fromEntries(files.map((file) => [file.name, hash(file.data)]));
}

async function resultOf(path) {
  const isFolder = (await stat(path)).isDirectory();
  const files = isFolder ? (await readdir(path)).map((name) => join(path, name)) : path;
  const bundle = await orCode(() => openBundle(files));
  if (typeof bundle === "string") return { verify: bundle, tasks: {} };
  const tasks = [];
  for (const task of bundle.tasks)
    tasks.push([
      task.name,
      {
        modules: await orCode(() => modules(bundle, task)),
        tensors: await orCode(() => tensors(bundle, task)),
        adapter: await orCode(() => adapter(bundle, task)),
      },
    ]);
  const verify = await orCode(async () => (await bundle.verify(), "ok"));
  bundle.close();
  return { verify, tasks: Object.fromEntries(tasks) };
}

for (const path of process.argv.slice(2)) console.log(JSON.stringify(await resultOf(path)));
