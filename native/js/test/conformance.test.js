/** The verdicts that all readers must give: conformance/. This one reads with the C library, so
 * what that lacks it lacks as well: "here" says what it answers instead. */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

import { HydraError, openBundle } from "hydraopt";

const folder = new URL("../../../conformance/", import.meta.url);
const listed = JSON.parse(await readFile(new URL("expected.json", folder)));

/** The code of what a call is refused for, or "ok". */
async function word(call) {
  try {
    await call();
    return "ok";
  } catch (error) {
    assert.ok(error instanceof HydraError, error.stack);
    return error.code;
  }
}

async function judged(bytes) {
  let bundle;
  const opened = await word(async () => (bundle = await openBundle(bytes)));
  if (!bundle) return { verify: opened, extract: [] };
  const verify = await word(() => bundle.verify());
  const extract = [];
  for (const { name } of bundle.tasks) extract.push(await word(() => bundle.extract(name)));
  bundle.close();
  return { verify, extract };
}

for (const [name, { here, ...verdict }] of Object.entries(listed))
  test(`verdict of ${name}`, async () => {
    const bytes = await readFile(new URL(`cases/${name}.hydra.safetensors`, folder));
    const { why, ...instead } = here?.c ?? {};
    assert.deepEqual(await judged(bytes), { ...verdict, ...instead }, why);
  });
