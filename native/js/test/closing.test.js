/** What a closed bundle answers, and what else can be a source: each with a typed error. */
import assert from "node:assert/strict";
import { copyFile, mkdtemp, open, readFile, rm, truncate } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { after, before, describe, test } from "node:test";
import { pathToFileURL } from "node:url";

import { HydraError, openBundle } from "hydraopt";
import { serve } from "../demo/serve.js";
import { all, made } from "./bundles.js";

const file = `${made()}/bundle.hydra.safetensors`;
const bytes = await readFile(file);
const baseConfig = await readFile(`${made()}/base/config.json`, "utf8");

/** A reader of the bundle that waits for `go` from the time on when `hold` was called. */
function slow() {
  let held, go;
  const read = async (offset, size) => {
    await held;
    return bytes.subarray(offset, offset + size);
  };
  const hold = () => (held = new Promise((resolve) => (go = resolve)));
  return { from: { size: bytes.length, read }, hold, go: () => go() };
}

const CALLS = {
  config: (bundle, name) => bundle.config(name),
  extract: (bundle, name) => bundle.extract(name),
  gguf: (bundle, name) => bundle.extract(name, { to: "gguf", baseConfig }),
  pairs: (bundle, name) => all(bundle.pairs(name)),
  tensors: (bundle, name) => bundle.tensors(name),
  verify: (bundle) => bundle.verify(),
  modules: async (bundle, name) => bundle.modules(name),
};
const closed = (error) => error instanceof HydraError && error.code === "usage";

describe("a bundle that is closed", () => {
  for (const [what, call] of Object.entries(CALLS))
    test(`${what} after close is a usage error`, async () => {
      const bundle = await openBundle(bytes);
      const [{ name }] = bundle.tasks;
      bundle.close();
      bundle[Symbol.dispose]();
      await assert.rejects(call(bundle, name), closed);
      assert.equal(bundle.task(name).name, name);
      assert.equal(bundle.size, bytes.length);
    });

  for (const keepCore of [true, false])
    for (const what of ["extract", "gguf", "pairs", "verify"])
      test(`${what} that waits is ended by close (keepCore: ${keepCore})`, async () => {
        const { from, hold, go } = slow();
        const bundle = await openBundle(from, { keepCore });
        const [{ name }] = bundle.tasks;
        hold();
        const waiting = [CALLS[what](bundle, name), CALLS.config(bundle, name)];
        const answers = Promise.allSettled(waiting);
        for (let i = 0; i < 5; i++) await new Promise((resolve) => setImmediate(resolve));
        bundle.close();
        go();
        for (const answer of await answers) assert.ok(closed(answer.reason), answer.reason?.stack);
      });
});

describe("sources", () => {
  let folder, server, url;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "hydra sources #"));
    server = await serve({ bundle: file });
    url = `http://127.0.0.1:${server.address().port}/bundle`;
  });
  after(() => Promise.all([rm(folder, { recursive: true }), server.close()]));

  test("a path, relative or not, and a file: URL are read by ranges", async () => {
    const copy = join(folder, "a b%20c.hydra.safetensors");
    await copyFile(file, copy);
    const whole = await openBundle(bytes);
    const [{ name }] = whole.tasks;
    const wanted = await whole.extract(name);
    const address = pathToFileURL(copy);
    for (const from of [copy, relative(process.cwd(), copy), address, address.href]) {
      const bundle = await openBundle(from);
      assert.ok(bundle.bytesRead <= 16384 && bundle.requests >= 1);
      assert.deepEqual(await bundle.extract(name), wanted);
      await bundle.verify();
      bundle.close();
    }
  });

  test("a Response is read whole, once", async () => {
    const bundle = await openBundle(await fetch(url));
    await bundle.verify();
    assert.equal(bundle.bytesRead, bundle.size);
    assert.equal((await openBundle(new Response(bytes))).tasks.length, bundle.tasks.length);
    const used = new Response(bytes);
    await used.arrayBuffer();
    await assert.rejects(openBundle(used), { name: "HydraError", code: "usage" });
    const missing = await fetch(url.replace("bundle", "none"));
    await assert.rejects(openBundle(missing), { name: "HydraError", code: "io" });
    const cut = new ReadableStream({ pull: (stream) => stream.error(new TypeError("terminated")) });
    await assert.rejects(openBundle(new Response(cut)), { name: "HydraError", code: "io" });
  });

  test("a handle of a file system is read by ranges", async () => {
    const handle = { kind: "file", getFile: async () => new File([bytes], "tasks") };
    const bundle = await openBundle(handle);
    assert.ok(bundle.bytesRead < bytes.length);
    await bundle.verify();
  });

  test("files that cannot be read are typed errors", async () => {
    const none = join(folder, "none");
    for (const from of [none, pathToFileURL(none)])
      await assert.rejects(openBundle(from), { name: "HydraError", code: "not there" });
    await assert.rejects(openBundle(folder), { name: "HydraError", code: "io" });
    await assert.rejects(openBundle("file://elsewhere/share/x"), { name: "HydraError" });
    const changing = join(folder, "changing");
    await copyFile(file, changing);
    const bundle = await openBundle(changing);
    await truncate(changing, 20000);
    await assert.rejects(bundle.verify(), { name: "HydraError", code: "io" });
    await rm(changing);
    await assert.rejects(bundle.verify(), { name: "HydraError", code: "not there" });
  });

  test("hydra.wasm may be given in the same ways", async () => {
    const beside = new URL("../src/hydra.wasm", import.meta.url);
    const read = await readFile(beside);
    for (const wasm of [beside, beside.href, read, new Response(read), new WebAssembly.Module(read)])
      assert.equal((await openBundle(bytes, { wasm })).tasks.length, 3);
    const wasm = new URL("none.wasm", beside);
    await assert.rejects(openBundle(bytes, { wasm }), { name: "HydraError", code: "not there" });
  });

  test("a bundle that is never closed holds no file open", async () => {
    const bundle = await openBundle(file);
    await bundle.extract(bundle.tasks[0].name);
    const next = await open("/dev/null");
    const { fd } = next;
    await next.close();
    const again = await openBundle(file);
    await again.extract(again.tasks[0].name);
    const after = await open("/dev/null");
    assert.equal(after.fd, fd);
    await after.close();
  });
});
