/** The command that serves the demo page: what it says, and that it never ends in a stack trace. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { serve } from "../demo/serve.js";

const script = fileURLToPath(new URL("../demo/serve.js", import.meta.url));

/** Returns the result of the command, which must not print a stack trace. */
function run(...words) {
  return runAt(script, ...words);
}

function runAt(path, ...words) {
  const options = { encoding: "utf8", timeout: 10000 };
  const done = spawnSync(process.execPath, [path, ...words], options);
  assert.doesNotMatch(done.stdout + done.stderr, /\n {4}at /);
  return done;
}

test("--help says how", () => {
  for (const word of ["--help", "-h"]) {
    const done = run(word);
    assert.equal(done.status, 0);
    assert.match(done.stdout, /^Usage: node demo\/serve.js .*Example: node/s);
  }
});

test("a path through a symbolic link is the same command", () => {
  const folder = mkdtempSync(join(tmpdir(), "hydra-"));
  const link = join(folder, "linked");
  symlinkSync(dirname(dirname(script)), link, "dir");
  assert.match(runAt(join(link, "demo", "serve.js"), "--help").stdout, /^Usage:/);
  rmSync(folder, { recursive: true });
});

test("a port in use is said, and what to do", async () => {
  const server = await serve();
  const { port } = server.address();
  const done = run("--port", String(port));
  server.close();
  assert.equal(done.status, 1);
  assert.equal(
    done.stderr,
    `serve.js: port ${port} is in use. Choose another: --port 0 takes any that is free\n`,
  );
});

test("what makes no sense is refused in a line", () => {
  for (const [words, says] of [
    [["--port", "many"], /number from 0 \(any\) to 65535; got many/],
    [["--port", "65536"], /got 65536/],
    [["--port"], /--port.*Usage/],
    [["--bundle", "x"], /--bundle.*Usage/],
    [["no-such-file"], /no-such-file: no such file/],
    [[script, "another"], /one bundle at most; got another as well/],
  ]) {
    const done = run(...words);
    assert.equal(done.status, 1, words.join(" "));
    assert.match(done.stderr, says);
    assert.equal(done.stderr.trimEnd().split("\n").length, 1);
  }
});
