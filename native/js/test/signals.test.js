/** A signal ends one call; the bundle and its other calls go on. */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, before, describe, test } from "node:test";

import { openBundle } from "hydraopt";
import { serve } from "../demo/serve.js";
import { all, made } from "./bundles.js";

const file = `${made()}/bundle.hydra.safetensors`;
const bytes = await readFile(file);

const CALLS = {
  config: (bundle, name, options) => bundle.config(name, options),
  extract: (bundle, name, options) => bundle.extract(name, options),
  pairs: (bundle, name, options) => all(bundle.pairs(name, options)),
  tensors: (bundle, name, options) => bundle.tensors(name, options),
  verify: (bundle, name, options) => bundle.verify(options),
};

for (const [what, call] of Object.entries(CALLS))
  test(`${what} does not start after its signal`, async () => {
    const bundle = await openBundle(bytes);
    const [{ name }] = bundle.tasks;
    const reason = new Error("of the caller");
    await assert.rejects(call(bundle, name, { signal: AbortSignal.abort(reason) }), reason);
    await call(bundle, name, { signal: new AbortController().signal });
    bundle.close();
  });

test("a call that waits for its reader ends at once, and the next one begins after that reader", async () => {
  let go;
  let held;
  const read = async (offset, size) => {
    await held;
    return bytes.subarray(offset, offset + size);
  };
  const bundle = await openBundle({ size: bytes.length, read });
  const [{ name }] = bundle.tasks;
  held = new Promise((resolve) => (go = resolve));
  const stop = new AbortController();
  const stopped = bundle.extract(name, { signal: stop.signal });
  const waiting = new AbortController();
  const alsoStopped = bundle.extract(name, { signal: waiting.signal });
  const next = bundle.extract(name);
  setImmediate(() => stop.abort());
  await assert.rejects(stopped, { name: "AbortError" });
  waiting.abort(new Error("no longer"));
  await assert.rejects(alsoStopped, { message: "no longer" });
  go();
  const wanted = await (await openBundle(bytes)).extract(name);
  assert.deepEqual(await next, wanted);
});

describe("a bundle at an address", () => {
  let server, url;
  before(async () => {
    server = await serve({ bundle: file });
    url = `http://127.0.0.1:${server.address().port}/bundle`;
  });
  after(() => server.close());

  test("the request of a call is aborted with the call, and the bundle goes on", async () => {
    let asked = 0;
    let seen;
    const slow = (address, options) => {
      if (asked++ !== 1) return fetch(address, options);
      seen = options.signal;
      return new Promise((_, reject) =>
        seen.addEventListener("abort", () => reject(seen.reason)),
      );
    };
    const whole = new AbortController();
    const bundle = await openBundle(url, { fetch: slow, signal: whole.signal });
    const [{ name }] = bundle.tasks;
    const stop = new AbortController();
    const stopped = bundle.extract(name, { signal: stop.signal });
    setImmediate(() => stop.abort());
    await assert.rejects(stopped, { name: "AbortError" });
    assert.ok(seen.aborted);
    assert.equal((await bundle.extract(name)).length, 2);
    whole.abort();
    await assert.rejects(bundle.verify(), { name: "AbortError" });
  });

  test("a loop over modules reads every byte once, and gives them back when it is left", async () => {
    const bundle = await openBundle(url);
    const [task, other] = bundle.tasks;
    const paths = [];
    for await (const { path } of bundle.pairs(task.name)) paths.push(path);
    assert.deepEqual(paths, bundle.modules(task.name).map((x) => x.path));
    const read = bundle.bytesRead;
    assert.ok(read <= bundle.size);
    for await (const { k, a, n } of bundle.pairs(other.name)) {
      assert.equal(a.length, k * n);
      break;
    }
    assert.equal(bundle.bytesRead - read, other.streamBytes);
    for await (const pair of bundle.pairs(other.name)) {
      if (pair.k) await bundle.config(other.name); // a call within the loop does not wait for it
    }
    assert.equal(bundle.bytesRead - read, 2 * other.streamBytes);
  });
});

test("numbers are the same whatever the dtype of the loop", async () => {
  const bundle = await openBundle(bytes);
  const [{ name, dtype }] = bundle.tasks;
  const same = await all(bundle.pairs(name, { dtype: "same" }));
  const named = { F16: "float16", BF16: "bfloat16", F32: "float32", F64: "float64" }[dtype];
  assert.deepEqual(same, await all(bundle.pairs(name, { dtype: named })));
  assert.equal(same[0].dtype, dtype);
});
