/** A bundle in a worker: its calls go there as messages, and their results come back. */

import { HydraError } from "./error.js";

/** Properties of a bundle that a call may change, and that each answer brings. */
const COUNTED = ["bytesRead", "requests"];
let last = 0;

/** Returns `answerCalls`, the worker's end. */
export function answerer(openBundle) {
  return (scope) => {
    const bundles = new Map();
    const running = new Map();

    async function run({ id, of, name, args, options }) {
      const controller = new AbortController();
      running.set(id, controller);
      const given = { ...options, signal: controller.signal };
      try {
        if (name === "open") {
          const bundle = await openBundle(...args, given);
          bundles.set(id, bundle);
          const { tasks, baseModel, library, size } = bundle;
          return { value: { tasks, baseModel, library, size }, counted: counted(bundle) };
        }
        const bundle = bundles.get(of);
        if (name !== "close") {
          const value = await bundle[name](...args, given);
          return { value, counted: counted(bundle) };
        }
        bundle.close();
        bundles.delete(of);
        return {};
      } finally {
        running.delete(id);
      }
    }

    scope.addEventListener("message", async ({ data }) => {
      if (data.abort) return running.get(data.abort)?.abort();
      let answer;
      try {
        answer = await run(data);
      } catch (error) {
        answer = { error: { name: error.name, message: error.message, code: error.code } };
      }
      scope.postMessage({ id: data.id, ...answer }, buffersOf(answer.value));
    });
    scope.start?.();
  };
}

/** Opens a bundle in a worker that calls `answerCalls(self)`. */
export async function openInWorker(worker, from, options = {}) {
  const id = ++last;
  const facts = await call(worker, { id, name: "open", args: [from] }, options);
  return new WorkerBundle(worker, id, facts);
}

class WorkerBundle {
  #worker;
  #id;
  #closed = false;

  constructor(worker, id, { value, counted }) {
    this.#worker = worker;
    this.#id = id;
    Object.assign(this, value, counted);
  }

  config = (name, options) => this.#call("config", [name], options);
  extract = (name, options) => this.#call("extract", [name], options);
  tensors = (name, options) => this.#call("tensors", [name], options);
  verify = (options) => this.#call("verify", [], options);

  close() {
    if (this.#closed) return;
    this.#closed = true;
    this.#worker.postMessage({ id: ++last, of: this.#id, name: "close" });
  }

  async #call(name, args, options = {}) {
    if (this.#closed) throw new HydraError("usage", "the bundle is closed; open it again");
    const { value, counted } = await call(
      this.#worker,
      { id: ++last, of: this.#id, name, args },
      options,
    );
    Object.assign(this, counted);
    return value;
  }
}

/** Sends a call and returns its answer; rejects with its error, or with the signal's reason. */
function call(worker, message, { signal, ...options }) {
  signal?.throwIfAborted();
  return new Promise((resolve, reject) => {
    const end = (act) => {
      worker.removeEventListener("message", onMessage);
      worker.removeEventListener("error", onError);
      signal?.removeEventListener("abort", onAbort);
      act();
    };
    const onMessage = ({ data }) => {
      if (data?.id !== message.id) return;
      end(() => (data.error ? reject(errorOf(data.error)) : resolve(data)));
    };
    const onError = (event) =>
      end(() => reject(new HydraError("io", `the worker failed: ${event.message}`)));
    const onAbort = () => {
      worker.postMessage({ abort: message.id });
      end(() => reject(signal.reason));
    };
    worker.addEventListener("message", onMessage);
    worker.addEventListener("error", onError);
    signal?.addEventListener("abort", onAbort);
    worker.start?.();
    worker.postMessage({ ...message, options });
  });
}

function counted(bundle) {
  return Object.fromEntries(COUNTED.map((name) => [name, bundle[name]]));
}

function errorOf({ name, message, code }) {
  if (name === "HydraError") return new HydraError(code, message);
  return Object.assign(new Error(message), { name });
}

/** Returns the buffers that files or tensors fill; they move to the page without a copy. */
function buffersOf(value) {
  const parts = Array.isArray(value) ? value.map((x) => x.data) : [];
  const buffers = parts.map((x) => x.buffer);
  return buffers.filter((x, i) => x.byteLength === parts[i].byteLength);
}
