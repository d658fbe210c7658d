/** A bundle in a worker gives what it gives on the page. */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { Worker } from "node:worker_threads";

import { HydraError, openBundle, openInWorker } from "hydraopt";
import { made } from "./bundles.js";

const bytes = await readFile(`${made()}/bundle.hydra.safetensors`);
const CODE = `
  import { parentPort } from "node:worker_threads";
  const { answerCalls } = await import(${JSON.stringify(import.meta.resolve("hydraopt"))});
  answerCalls(parentPort);
`;

/** A worker of Node with the events of a browser's. */
function started() {
  const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(CODE)}`));
  const heard = new Map();
  worker.addEventListener = (name, act) => {
    heard.set(act, (x) => act(name === "message" ? { data: x } : x));
    worker.on(name, heard.get(act));
  };
  worker.removeEventListener = (name, act) => worker.off(name, heard.get(act));
  return worker;
}

test("every call gives what it gives on the page", async () => {
  const worker = started();
  try {
    const here = await openBundle(bytes);
    const there = await openInWorker(worker, new Blob([bytes]));
    for (const fact of ["tasks", "baseModel", "library", "size"])
      assert.deepEqual(there[fact], here[fact], fact);
    for (const { name } of here.tasks) {
      assert.deepEqual(await there.config(name), await here.config(name));
      assert.deepEqual(await there.tensors(name), await here.tensors(name));
      assert.deepEqual(await there.extract(name), await here.extract(name));
    }
    await there.verify();
    assert(there.bytesRead > 0);
    there.close();
    await assert.rejects(there.verify(), { code: "usage" });
    here.close();
  } finally {
    await worker.terminate();
  }
});

test("two bundles of one worker are kept apart, and errors keep their code", async () => {
  const worker = started();
  try {
    const [one, other] = await Promise.all([
      openInWorker(worker, new Blob([bytes])),
      openInWorker(worker, bytes),
    ]);
    one.close();
    await other.verify();
    await assert.rejects(
      other.extract("none"),
      (error) => error instanceof HydraError && error.code === "not there",
    );
    await assert.rejects(openInWorker(worker, new Blob(["no bundle"])), HydraError);
  } finally {
    await worker.terminate();
  }
});

test("a signal ends one call", async () => {
  const worker = started();
  try {
    const bundle = await openInWorker(worker, bytes);
    const [{ name }] = bundle.tasks;
    const reason = new Error("of the caller");
    await assert.rejects(bundle.extract(name, { signal: AbortSignal.abort(reason) }), reason);
    const controller = new AbortController();
    const waiting = bundle.extract(name, { signal: controller.signal });
    controller.abort(reason);
    await assert.rejects(waiting, reason);
    assert((await bundle.extract(name)).length > 0);
  } finally {
    await worker.terminate();
  }
});
