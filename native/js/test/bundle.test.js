import assert from "node:assert/strict";
import { readFile, readdir, stat } from "node:fs/promises";
import { after, before, describe, test } from "node:test";

import { serve } from "../demo/serve.js";
import { HydraError, openBundle } from "hydraopt";
import { all, made } from "./bundles.js";

const folder = made();
const file = `${folder}/bundle.hydra.safetensors`;
const bytes = await readFile(file);

/** Files of a folder that hydraopt wrote, by name. */
async function exported(task, kind) {
  const place = `${folder}/${task}/${kind}`;
  if ((await stat(place)).isFile()) return { [place]: await readFile(place) };
  // Only Python writes a card.
  const names = (await readdir(place)).filter((name) => name !== "README.md").sort();
  const files = await Promise.all(names.map((name) => readFile(`${place}/${name}`)));
  return Object.fromEntries(names.map((name, i) => [name, files[i]]));
}

function byName(files) {
  const sorted = files.toSorted((a, b) => (a.name < b.name ? -1 : 1));
  return Object.fromEntries(sorted.map(({ name, data }) => [name, Buffer.from(data)]));
}

describe("a bundle in memory", () => {
  test("says what is in it", async () => {
    const bundle = await openBundle(bytes);
    assert.equal(bundle.tasks.length, 3);
    assert.ok(bundle.bytesRead <= 16384 + 8192);
    for (const task of bundle.tasks) {
      assert.ok(task.error > 0 && task.error < 1);
      assert.equal(bundle.modules(task.name).length, task.modules);
      const config = await bundle.config(task.name);
      assert.equal(config.peft_type, "LORA");
    }
    assert.throws(() => bundle.task("nowhere"), { code: "not there" });
    bundle.close();
    await assert.rejects(bundle.verify(), { code: "usage" });
  });

  test("gives the bytes of hydraopt export", async () => {
    const bundle = await openBundle(bytes);
    for (const { name } of bundle.tasks) {
      const files = byName(await bundle.extract(name));
      assert.deepEqual(files, await exported(name, "peft"));
    }
  });

  test("gives the GGUF of hydraopt export", async () => {
    const bundle = await openBundle(bytes);
    const baseConfig = await readFile(`${folder}/base/config.json`, "utf8");
    for (const { name } of bundle.tasks) {
      const [made] = await bundle.extract(name, { to: "gguf", baseConfig });
      const [wanted] = Object.values(await exported(name, "gguf"));
      assert.ok(Buffer.from(made.data).equals(wanted));
    }
    await assert.rejects(bundle.extract(bundle.tasks[0].name, { to: "gguf" }), /baseConfig/);
    for (const wrong of [{ to: "gguf" }, { to: "onnx" }, { dtype: "int8" }]) {
      const refused = { name: "HydraError", code: "usage" };
      await assert.rejects(bundle.extract(bundle.tasks[0].name, wrong), refused);
    }
  });

  test("gives back what is carried bit by bit", async () => {
    const bundle = await openBundle(await readFile(`${folder}/carried.hydra.safetensors`));
    for (const { name, lossless, streamBytes, carriedBytes } of bundle.tasks) {
      assert.ok(lossless);
      assert.equal(streamBytes, 0);
      assert.ok(carriedBytes > 1000 && carriedBytes < bundle.size);
      assert.deepEqual(byName(await bundle.extract(name)), await exported(name, "lossless"));
      assert.ok((await bundle.tensors(name)).every((tensor) => !tensor.coded));
    }
  });

  test("gives pairs whose product is that of the files", async () => {
    const bundle = await openBundle(bytes);
    const [{ name }] = bundle.tasks;
    const pairs = await all(bundle.pairs(name));
    assert.equal(pairs.length, bundle.task(name).modules);
    for (const { m, n, k, a, b } of pairs) {
      assert.equal(b.length, m * k);
      assert.equal(a.length, k * n);
      assert.ok(a.every(Number.isFinite) && b.every(Number.isFinite));
    }
    const wide = await all(bundle.pairs(name, { dtype: "float64" }));
    assert.deepEqual(pairs[0].a, new Float32Array(wide[0].a));
    await assert.rejects(all(bundle.pairs(name, { dtype: "int3" })), { code: "usage" });
  });

  test("calls at once wait for each other", async () => {
    const bundle = await openBundle(bytes);
    const names = bundle.tasks.map((task) => task.name);
    const files = await Promise.all(names.map((name) => bundle.extract(name)));
    for (const [i, name] of names.entries())
      assert.deepEqual(byName(files[i]), await exported(name, "peft"));
  });

  test("a damaged one is refused, wherever the damage is", async () => {
    for (const at of [3, 200, bytes.length - 1]) {
      const changed = Uint8Array.from(bytes);
      changed[at] ^= 0x55;
      const reading = async () => (await openBundle(changed)).verify();
      await assert.rejects(reading, HydraError, `byte ${at}`);
    }
    await assert.rejects(openBundle(bytes.subarray(0, 1000)), { code: "damaged" });
    await assert.rejects(openBundle(new Uint8Array(0)), { code: "damaged" });
    await assert.rejects(openBundle(3), { code: "usage" });
  });

  test("limits of the caller hold", async () => {
    const limits = { memory: 10000 };
    await assert.rejects(openBundle(bytes, { limits }), { code: "limit" });
  });
});

test("a core and its tasks are one bundle", async () => {
  const names = await readdir(`${folder}/apart`);
  assert.ok(names.includes("tasks.index.safetensors"));
  const files = names.map(async (name) => new File([await readFile(`${folder}/apart/${name}`)], name));
  const bundle = await openBundle(await Promise.all(files));
  for (const { name } of bundle.tasks)
    assert.deepEqual(byName(await bundle.extract(name)), await exported(name, "peft"));
});

test("files without names are known by what is in them, and called by their number", async () => {
  const names = (await readdir(`${folder}/apart`)).sort();
  const blobs = await Promise.all(
    names.map(async (name) => new Blob([await readFile(`${folder}/apart/${name}`)])),
  );
  const bundle = await openBundle(blobs);
  assert.equal(bundle.tasks.length, 3);
  const bad = names.findIndex((name) => name.endsWith(".task.safetensors"));
  blobs[bad] = blobs[bad].slice(0, blobs[bad].size - 1);
  const message = new RegExp(`^part ${bad + 1} of ${names.length}: cut off; got .* expected`);
  await assert.rejects(openBundle(blobs), { code: "damaged", message });
});

test("what is held is not read again", async () => {
  const asked = [];
  const read = async (offset, size) => {
    asked.push([offset, offset + size]);
    return bytes.subarray(offset, offset + size);
  };
  const bundle = await openBundle({ size: bytes.length, read });
  await bundle.extract(bundle.tasks[0].name);
  asked.sort(([a], [b]) => a - b);
  for (let i = 1; i < asked.length; i++) assert.ok(asked[i][0] >= asked[i - 1][1]);
  assert.equal(bundle.bytesRead, asked.reduce((sum, [from, to]) => sum + to - from, 0));
  assert.equal(bundle.requests, asked.length);
  const inMemory = await openBundle(bytes);
  await inMemory.verify();
  assert.equal(inMemory.bytesRead, 0);
});

describe("a bundle at an address", () => {
  let server, url;
  before(async () => {
    server = await serve({ bundle: file });
    url = `http://127.0.0.1:${server.address().port}/bundle`;
  });
  after(() => server.close());

  test("fetches the core and one task", async () => {
    const bundle = await openBundle(url);
    const [task] = bundle.tasks;
    assert.deepEqual(byName(await bundle.extract(task.name)), await exported(task.name, "peft"));
    const others = bundle.tasks.slice(1).reduce((sum, x) => sum + x.streamBytes, 0);
    assert.ok(bundle.bytesRead <= bundle.size - others + 16384);
    assert.ok(bundle.requests <= 4);
    const before = bundle.bytesRead;
    await bundle.extract(bundle.tasks[1].name);
    assert.equal(bundle.bytesRead - before, bundle.tasks[1].streamBytes);
  });

  test("a server without ranges will do", async () => {
    const whole = async (address) => {
      const answer = await fetch(address);
      return new Response(await answer.arrayBuffer(), { status: 200 });
    };
    const bundle = await openBundle(url, { fetch: whole });
    await bundle.verify();
    assert.equal(bundle.requests, 1);
    assert.equal(bundle.bytesRead, bundle.size);
  });

  test("what comes short, changes or is not there is an error", async () => {
    const short = async (address, options) => {
      const answer = await fetch(address, options);
      const some = (await answer.arrayBuffer()).slice(0, -1);
      return new Response(some, { status: 206, headers: answer.headers });
    };
    await assert.rejects(openBundle(url, { fetch: short }), /how long/);
    let asked = 0;
    const changed = (address, options) =>
      fetch(address, asked++ ? {} : options);
    const bundle = await openBundle(url, { fetch: changed });
    await assert.rejects(bundle.verify(), /has changed/);
    const broken = (from) => async (address, options) => {
      const answer = await fetch(address, options);
      if (asked++ < from) return answer;
      const pull = (stream) => stream.error(new TypeError("terminated"));
      return new Response(new ReadableStream({ pull }), { status: 206, headers: answer.headers });
    };
    for (const from of [0, 1]) {
      asked = 0;
      const reading = async () => (await openBundle(url, { fetch: broken(from) })).verify();
      await assert.rejects(reading, { name: "HydraError", code: "io", message: /terminated/ });
    }
    const signal = AbortSignal.abort();
    await assert.rejects(openBundle(url, { signal }), { name: "AbortError" });
    await assert.rejects(openBundle(url.replace("bundle", "none")), { code: "io", message: /404/ });
  });
});
