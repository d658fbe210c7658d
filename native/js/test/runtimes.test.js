/** Deno and Bun, where they are installed, extract the bytes that Node does. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { made } from "./bundles.js";

const COMMANDS = { deno: ["run", "--allow-all", "--no-lock"], bun: ["run"] };
const script = fileURLToPath(new URL("runtime.js", import.meta.url));
const args = [script, `${made()}/bundle.hydra.safetensors`];
const printed = (command, given) => {
  const { status, stdout, stderr } = spawnSync(command, given, { encoding: "utf8" });
  assert.equal(status, 0, stderr);
  return stdout;
};

for (const [command, before] of Object.entries(COMMANDS)) {
  const missing = spawnSync(command, ["--version"]).error !== undefined;
  test(`${command} gives what Node gives`, { skip: missing && `${command} is not installed` }, () =>
    assert.equal(printed(command, [...before, ...args]), printed(process.execPath, args)));
}
