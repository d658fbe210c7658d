/** Reads hydraopt bundles. index.d.ts documents it; index.js (browsers) and node.js export it. */

import { HydraError } from "./error.js";
import { printed } from "./printed.js";
import { unlessAborted } from "./signal.js";
import { Source, bytesOf } from "./source.js";

const STATUS = [
  "ok", "damaged", "checksum", "version", "not there", "unsupported", "range", "limit", "memory",
  "io", "usage", "stopped",
];
const IO = 9;
const DTYPES = { same: 0, float16: 1, bfloat16: 2, float32: 3, float64: 4 };
/** By hydra_dtype: what numbers come in. Halves come as their bits. */
const ARRAYS = [null, Uint16Array, Uint16Array, Float32Array, Float64Array];
const DTYPE_NAMES = [null, "F16", "BF16", "F32", "F64"];
/** Numbers that are decoded at once when modules are read one after another. */
const BATCH = 2 ** 20;

let compiled;

/** Returns the WebAssembly module. The one beside this file is compiled once. */
function moduleOf(wasm, files) {
  if (wasm instanceof WebAssembly.Module) return wasm;
  if (wasm !== undefined) return compile(wasm, files);
  compiled ??= compile(new URL("./hydra.wasm", import.meta.url), files);
  compiled.catch(() => (compiled = undefined)); // the next call tries again
  return compiled;
}

async function compile(wasm, files) {
  return WebAssembly.compile(await bytesOf(wasm, files));
}

/* A folder's index says what its task files say; whoever gives all files of a folder gives it too. */
function isIndex(from) {
  const name = typeof from === "string" || from instanceof URL ? String(from) : from?.name;
  return /(^|\/)tasks\.index\.safetensors$/.test(name?.split(/[?#]/)[0] ?? "");
}

/** Returns openBundle. files: access to files of this machine, where there is any; see node.js. */
export function opener(files) {
  return (from, options = {}) => open(from, options, files);
}

async function open(from, options, files) {
  const given = Array.isArray(from) ? from.filter((x) => !isIndex(x)) : [from];
  const all = await Promise.all(given.map((x) => Source.of(x, options, files)));
  const several = all.length > 1;
  if (several) all.forEach((x, i) => (x.name ??= `part ${i + 1} of ${all.length}`));
  // One without a name is known by its header.
  const skipped = await Promise.all(all.map((x) => several && x.isIndex()));
  const sources = all.filter((_, i) => !skipped[i]);
  const bundle = new Bundle(sources, options);
  await bundle.start(await moduleOf(options.wasm, files));
  return bundle;
}

export class Bundle {
  #sources;
  #options;
  #exports; // of the WebAssembly instance; undefined once the bundle is closed
  #missing; // what an import could not answer yet
  #sink;
  #take;
  #last = Promise.resolve(); // calls wait for each other: an instance does one thing at a time
  #signal; // of the call that runs
  #iterating = 0; // loops over pairs, for which bytes stay between calls

  constructor(sources, options) {
    this.#sources = sources;
    this.#options = options;
  }

  get #wasm() {
    if (!this.#exports) throw new HydraError("usage", "the bundle is closed; open it again");
    return this.#exports;
  }

  /** Called by openBundle. */
  async start(module) {
    const instance = await WebAssembly.instantiate(module, {
      hydra: this.#imports(),
      wasi_snapshot_preview1: new Proxy({}, { get: () => () => 52 }), // ENOSYS: nothing uses files
    });
    this.#exports = instance.exports;
    this.#wasm._initialize?.();
    const sizes = this.#sources.map((x) => x.size);
    const at = this.#room(8 * sizes.length);
    new Float64Array(this.#wasm.memory.buffer, at, sizes.length).set(sizes);
    const { memory = 0, numbers = 0, output = 0 } = this.#options.limits ?? {};
    const names = sizes.length > 1 ? this.#texts(this.#sources.map((x) => x.name)) : 0;
    await this.#run(() => this.#wasm.open(sizes.length, at, names, memory, numbers, output));
    this.#wasm.give(at);
    this.#wasm.give(names);
    this.baseModel = this.#text(this.#wasm.base_model());
    this.library = this.#text(this.#wasm.library());
    this.tasks = Object.freeze(
      Array.from({ length: this.#wasm.task_count() }, (_, i) => this.#describe(i)),
    );
  }

  get size() {
    return this.#sources.reduce((sum, x) => sum + x.size, 0);
  }

  get bytesRead() {
    return this.#sources.reduce((sum, x) => sum + x.bytesRead, 0);
  }

  get requests() {
    return this.#sources.reduce((sum, x) => sum + x.requests, 0);
  }

  task(name) {
    const task = this.tasks.find((x) => x.name === name);
    if (task) return task;
    const some = this.tasks.slice(0, 8).map((x) => x.name).join(", ");
    const more = this.tasks.length > 8 ? ` and ${this.tasks.length - 8} more, which tasks has` : "";
    throw new HydraError("not there", `no task ${name}; expected one of ${some}${more}`);
  }

  modules(name) {
    const { index, modules } = this.task(name);
    const wasm = this.#wasm;
    return Array.from({ length: modules }, (_, i) => this.#module(wasm.describe_module(index, i)));
  }

  async config(name, { signal } = {}) {
    const { index } = this.task(name);
    return this.#alone(signal, async () => {
      const at = this.#room(4);
      await this.#run(() => this.#wasm.config(index, at));
      const json = this.#text(new DataView(this.#wasm.memory.buffer).getUint32(at, true));
      this.#wasm.give(at);
      return JSON.parse(json);
    });
  }

  /** Files of an adapter, [{name, data}]. */
  async extract(name, { to = "peft", dtype = "same", baseConfig, signal } = {}) {
    const { index } = this.task(name);
    const type = dtypeOf(dtype);
    return this.#alone(signal, async () => {
      await this.#core();
      if (to === "peft") return this.#written(() => this.#wasm.write_peft(index, type));
      if (to !== "gguf")
        throw new HydraError("usage", `to: "peft" or "gguf", not ${JSON.stringify(to)}`);
      if (!baseConfig)
        throw new HydraError("usage", "a GGUF needs baseConfig: the base model's config.json");
      const text = typeof baseConfig === "string" ? baseConfig : JSON.stringify(baseConfig);
      const bytes = new TextEncoder().encode(text);
      const at = this.#room(bytes.length);
      new Uint8Array(this.#wasm.memory.buffer).set(bytes, at);
      try {
        return await this.#written(() => this.#wasm.write_gguf(index, type, at, bytes.length));
      } finally {
        this.#wasm.give(at);
      }
    });
  }

  async *pairs(name, { dtype = "float32", signal } = {}) {
    const { index, lossless, modules } = this.task(name);
    const type = dtypeOf(dtype);
    const read = (first) =>
      this.#alone(signal, async () => {
        await this.#core();
        return this.#taken((at) => this.#pair(at), () => this.#wasm.pairs(index, first, BATCH, type));
      });
    this.#iterating += 1;
    try {
      for (let first = 0; first < modules || lossless; ) {
        const some = await read(first); // fails for a lossless task
        yield* some;
        first += some.length;
      }
    } finally {
      this.#iterating -= 1;
      this.#forget();
    }
  }

  async tensors(name, { signal } = {}) {
    const { index } = this.task(name);
    return this.#alone(signal, async () => {
      await this.#core();
      return this.#taken((at) => this.#tensor(at), () => this.#wasm.tensors(index));
    });
  }

  async verify({ signal } = {}) {
    return this.#alone(signal, async () => {
      // All of it at once: a call that misses something starts over, and this one reads everything.
      await Promise.all(this.#sources.map((x) => x.fetch(0, x.size, signal)));
      await this.#run(() => this.#wasm.verify());
    });
  }

  close() {
    this.#exports = undefined;
    this.#sources.forEach((x) => x.forget());
  }

  /** One call after another, and none after close or after the signal. */
  #alone(signal, work) {
    const turn = this.#last.then(() => {
      this.#wasm; // throws if the bundle is closed
      signal?.throwIfAborted();
      this.#signal = signal;
      return work();
    });
    const done = turn.finally(() => this.#forget());
    this.#last = done.catch(() => undefined);
    return unlessAborted(signal, done);
  }

  #forget() {
    if (!this.#iterating) this.#sources.forEach((x) => x.forget());
  }

  async #core() {
    if (this.#options.keepCore === false) return;
    await this.#run(() => this.#wasm.keep_core(0));
    this.#forget();
  }

  async #written(call) {
    let files;
    await this.#run(() => {
      files = []; // from the start, also when called again
      this.#sink = files;
      return call();
    });
    return files.map(({ name, data }) => ({ name, data }));
  }

  async #taken(read, call) {
    let all;
    await this.#run(() => {
      all = [];
      this.#take = (at) => all.push(read(at));
      return call();
    });
    return all;
  }

  /** Calls until nothing is missing any more. */
  async #run(call) {
    for (;;) {
      this.#missing = undefined;
      const status = call();
      if (status === 0) return;
      if (status !== IO || !this.#missing)
        throw new HydraError(STATUS[status], this.#text(this.#wasm.error_text()));
      await this.#missing();
      this.#signal?.throwIfAborted();
    }
  }

  #imports() {
    const bytes = (at, size) => new Uint8Array(this.#wasm.memory.buffer, at >>> 0, size >>> 0);
    return {
      read_at: (file, offset, at, size) => {
        const source = this.#sources[file];
        const most = size >>> 0;
        const held = source.held(offset, most);
        if (held) bytes(at, most).set(held);
        else this.#missing = () => source.fetch(offset, most, this.#signal);
        return held ? 0 : 1;
      },
      number: (at, size) => Number(new TextDecoder().decode(bytes(at, size))),
      text: (kind, precision, value, at, room) => {
        const text = printed(String.fromCharCode(kind), precision, value);
        if (text.length > room) return -1;
        bytes(at, text.length).set(new TextEncoder().encode(text));
        return text.length;
      },
      begin: (name, size) => {
        this.#sink.push({ name: this.#text(name), data: new Uint8Array(size), done: 0 });
        return 0;
      },
      write: (from, size) => {
        const file = this.#sink.at(-1);
        file.data.set(bytes(from, size), file.done);
        file.done += size >>> 0;
        return 0;
      },
      end: () => 0,
      pair: (at) => (this.#take(at), 0),
      tensor: (at) => (this.#take(at), 0),
    };
  }

  /** Memory for `size` bytes: its address. Those that wasm hands out are signed: above 2 GiB negative. */
  #room(size) {
    return this.#wasm.take(size) >>> 0;
  }

  /** Texts for C in one block of memory: its address. */
  #texts(words) {
    const bytes = words.map((word) => new TextEncoder().encode(`${word}\0`));
    let end = 4 * words.length;
    const starts = bytes.map((x) => (end += x.length) - x.length);
    const at = this.#room(end);
    new Uint32Array(this.#wasm.memory.buffer, at, words.length).set(starts.map((x) => at + x));
    bytes.forEach((x, i) => new Uint8Array(this.#wasm.memory.buffer).set(x, at + starts[i]));
    return at;
  }

  #text(place) {
    const at = place >>> 0;
    if (!at) return null;
    const bytes = new Uint8Array(this.#wasm.memory.buffer);
    return new TextDecoder().decode(bytes.subarray(at, bytes.indexOf(0, at)));
  }

  #fields(at) {
    const view = new DataView(this.#wasm.memory.buffer, at >>> 0);
    return {
      word: (i) => view.getUint32(4 * i, true),
      text: (i) => this.#text(view.getUint32(4 * i, true)),
      double: (offset) => view.getFloat64(offset, true),
    };
  }

  #describe(index) {
    const at = this.#fields(this.#wasm.describe(index));
    const likely = at.double(48);
    return Object.freeze({
      index,
      name: at.text(0),
      baseModel: at.text(1),
      format: at.text(2),
      dtype: at.text(3),
      lossless: at.word(4) !== 0,
      modules: at.word(5),
      tensors: at.word(6),
      carried: at.word(7),
      error: at.double(32),
      streamBytes: at.double(40),
      carriedBytes: at.double(56),
      harm: likely < 0 ? null : likely,
    });
  }

  #module(place) {
    const at = this.#fields(place);
    return {
      path: at.text(1),
      kind: at.text(2),
      layout: at.text(3),
      m: at.word(4),
      n: at.word(5),
      group: at.word(6),
      groups: at.word(7),
      error: at.double(32),
    };
  }

  /** wasm.c asserts the places in hydra_module_info, hydra_pair and hydra_tensor that are read. */
  #pair(place) {
    const at = this.#fields(place);
    const module = this.#module(at.word(1));
    const k = at.word(2);
    const dtype = at.word(3);
    const { m, n } = module;
    const numbers = (from, count) =>
      k ? new ARRAYS[dtype](this.#bytes(from, count * ARRAYS[dtype].BYTES_PER_ELEMENT)) : new ARRAYS[dtype](0);
    return { ...module, k, dtype: DTYPE_NAMES[dtype], b: numbers(at.word(4), m * k), a: numbers(at.word(5), k * n) };
  }

  #tensor(place) {
    const at = this.#fields(place);
    const axes = at.word(4);
    const shape = new BigUint64Array(this.#bytes(at.word(3), 8 * axes));
    return {
      key: at.text(0),
      dtype: at.text(1),
      kind: at.text(2),
      shape: Array.from(shape, Number),
      coded: at.word(5) !== 0,
      data: new Uint8Array(this.#bytes(at.word(6), at.word(7))),
    };
  }

  /** A copy of memory, which moves when it grows. */
  #bytes(at, size) {
    return this.#wasm.memory.buffer.slice(at, at + size);
  }
}

if (Symbol.dispose) Bundle.prototype[Symbol.dispose] = Bundle.prototype.close;

function dtypeOf(name) {
  if (!(name in DTYPES))
    throw new HydraError("usage", `dtype: one of ${Object.keys(DTYPES).join(", ")}, not ${name}`);
  return DTYPES[name];
}
