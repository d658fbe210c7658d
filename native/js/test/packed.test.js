/** What is packed is what the module needs. */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

const folder = new URL("../", import.meta.url);

test("every file that is imported is packed", async () => {
  const { files } = JSON.parse(await readFile(new URL("package.json", folder), "utf8"));
  const left = ["src/index.js"];
  for (const file of left) {
    assert.ok(files.includes(file), file);
    const text = await readFile(new URL(file, folder), "utf8");
    for (const [, name] of text.matchAll(/(?:from|import\() ?"\.\/([\w.]+\.js)"/g))
      if (!left.includes(`src/${name}`)) left.push(`src/${name}`);
  }
  assert.ok(left.length > 3);
});
