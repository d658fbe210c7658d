/** What is packed is what the module needs, in browsers and in Node. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

const folder = new URL("../", import.meta.url);
const about = JSON.parse(await readFile(new URL("package.json", folder), "utf8"));

/** Every file that an entry imports, itself included; what it imports from elsewhere goes to `outside`. */
async function imported(entry, outside = []) {
  const left = [entry.replace("./", "")];
  for (const file of left) {
    const text = await readFile(new URL(file, folder), "utf8");
    for (const [, name] of text.matchAll(/(?:from|import\(?) ?"([^"]+)"/g))
      if (!name.startsWith("./")) outside.push(name);
      else if (!left.includes(`src/${name.slice(2)}`)) left.push(`src/${name.slice(2)}`);
  }
  return left;
}

test("every file that is imported is packed", async () => {
  const entries = Object.values(about.exports["."]).filter((name) => name.endsWith(".js"));
  for (const entry of entries) {
    const files = await imported(entry);
    assert.ok(files.length > 3);
    for (const file of files) assert.ok(about.files.includes(file), file);
  }
  assert.ok(about.files.includes(about.exports["./hydra.wasm"].slice(2)));
});

test("what a browser gets imports nothing of Node", async () => {
  const { browser, default: other, node } = about.exports["."];
  for (const entry of [browser, other]) {
    const outside = [];
    await imported(entry, outside);
    assert.deepEqual(outside, []);
  }
  assert.notEqual(node, browser);
});

test("the licence is packed", () => {
  const text = execFileSync("npm", ["pack", "--dry-run", "--json"], { cwd: folder, encoding: "utf8" });
  const [{ files }] = JSON.parse(text);
  const names = files.map((file) => file.path);
  for (const name of ["LICENSE", "README.md", "src/hydra.wasm", "src/index.d.ts"])
    assert.ok(names.includes(name), name);
});
