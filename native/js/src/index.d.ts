/** hydraopt bundles in browsers and Node: many LoRA adapters ("tasks") of one base model in one
 * file, each of which comes back as a PEFT folder, a llama.cpp GGUF, or numbers. */

/// <reference lib="esnext.disposable" />

/** Source of a file: its bytes, a file of the origin-private file system, a URL (read by ranges), a
 * Response (read whole), or a reader of your own. In Node a string is a path, unless it begins as an
 * address does, and file: URLs are read as well. */
export type Source =
  | Blob
  | FileSystemFileHandle
  | ArrayBuffer
  | ArrayBufferView
  | string
  | URL
  | Response
  | { size: number; read(offset: number, size: number, signal?: AbortSignal): Promise<Uint8Array> };

export interface Options {
  /** Keep what all tasks share decoded: every further task then costs its own bytes only. True. */
  keepCore?: boolean;
  /** Bounds on top of the format's own, for files of strangers; 0 is none. */
  limits?: {
    /** Bytes of memory. */
    memory?: number;
    /** Numbers that the coded streams may stand for. */
    numbers?: number;
    /** Bytes of an exported file. */
    output?: number;
  };
  /** Used for URLs in place of the global one. */
  fetch?: typeof fetch;
  /** Ends the requests for URLs: what waits for them rejects with the signal's reason, a DOMException
   * named AbortError unless `abort` was given another, and no HydraError. */
  signal?: AbortSignal;
  /** hydra.wasm, where it does not lie beside the module: its URL (relative to the page), in Node
   * also its path, a Response, its bytes, or compiled. */
  wasm?: string | URL | Response | ArrayBuffer | ArrayBufferView | WebAssembly.Module;
}

export interface CallOptions {
  /** Ends this call: it rejects with the signal's reason. Other calls on the bundle go on. */
  signal?: AbortSignal;
}

export type Dtype = "same" | "float16" | "bfloat16" | "float32" | "float64";

export interface Task {
  readonly index: number;
  readonly name: string;
  readonly baseModel: string | null;
  /** Of the original file: peft, kohya, diffusers, loralib, mlx. */
  readonly format: string;
  /** Of the original's numbers, by its safetensors name. */
  readonly dtype: string;
  /** Every tensor is kept bit by bit. */
  readonly lossless: boolean;
  /** Low-rank modules, coded tensors beside them, and tensors that are kept bit by bit. */
  readonly modules: number;
  readonly tensors: number;
  readonly carried: number;
  /** Relative Frobenius error of the weights, as measured when the bundle was made. */
  readonly error: number;
  /** Bytes of its own stream, and of what is kept bit by bit, as they lie in the file. */
  readonly streamBytes: number;
  readonly carriedBytes: number;
  /** Expected share of answers that change, 0 to 1; null if nobody measured it. */
  readonly harm: number | null;
}

export interface Module {
  path: string;
  kind: "linear" | "embedding" | "conv";
  layout: string;
  /** Outputs and inputs of the base model's weight. */
  m: number;
  n: number;
  group: number;
  groups: number;
  error: number;
}

/** One module of a task: dW = B A, the adapter's scale inside B. */
export interface Pair extends Module {
  k: number;
  dtype: "F16" | "BF16" | "F32" | "F64";
  /** B (m, k), row-major. Of F16 and BF16 the bits. */
  b: Uint16Array | Float32Array | Float64Array;
  /** A (k, n), row-major. */
  a: Uint16Array | Float32Array | Float64Array;
}

export interface Tensor {
  key: string;
  dtype: string;
  kind: string;
  shape: number[];
  /** It comes back with an error; else bit by bit. */
  coded: boolean;
  /** Little-endian, row-major. */
  data: Uint8Array;
}

export interface AdapterFile {
  name: string;
  data: Uint8Array;
}

export interface ExtractOptions extends CallOptions {
  /** A PEFT folder (two files), or a LoRA GGUF for llama.cpp (one). "peft". */
  to?: "peft" | "gguf";
  /** Of the factors; "same" is the original's, and F16 in a GGUF. */
  dtype?: Dtype;
  /** The base model's config.json, its text or parsed: a GGUF needs it. */
  baseConfig?: string | object;
}

export type HydraErrorCode =
  | "damaged" | "checksum" | "version" | "not there" | "unsupported" | "range" | "limit"
  | "memory" | "io" | "usage";

/** Something is wrong with a bundle, or with what was asked for; the message says what to do. */
export class HydraError extends Error {
  readonly code: HydraErrorCode;
}

export class Bundle {
  readonly tasks: readonly Task[];
  readonly baseModel: string | null;
  /** Who wrote the file. */
  readonly library: string | null;
  /** Bytes of the files, and how many of them were read, in how many requests: none of bytes in
   * memory. */
  readonly size: number;
  readonly bytesRead: number;
  readonly requests: number;
  /** Throws HydraError, "not there". */
  task(name: string): Task;
  modules(name: string): Module[];
  /** The config as the bundle stores it; a coded task's lacks what an export writes anew. */
  config(name: string, options?: CallOptions): Promise<Record<string, unknown>>;
  /** The files of an adapter: the bytes of `hydraopt export`. */
  extract(name: string, options?: ExtractOptions): Promise<AdapterFile[]>;
  /** The low-rank modules of a task, in the order of modules(); a few are in memory at a time. */
  pairs(name: string, options?: CallOptions & { dtype?: Dtype }): AsyncGenerator<Pair, void, void>;
  /** Tensors beside the pairs: those kept bit by bit, and those that are coded. */
  tensors(name: string, options?: CallOptions): Promise<Tensor[]>;
  /** Reads every byte; throws HydraError for the first thing that is wrong. */
  verify(options?: CallOptions): Promise<void>;
  /** Gives the memory back. Calls that wait and later ones that need the file end with HydraError,
   * "usage"; `tasks` and what else is known stay. */
  close(): void;
  /** close, for `using`, where the engine has Symbol.dispose. */
  [Symbol.dispose](): void;
}

/** Opens a bundle file, or all files of a folder (`hydraopt split`), in any order: its core and its
 * task files; the index is left out. Of a
 * URL only the header is fetched, later what all tasks share, once, and what a task needs. */
export function openBundle(from: Source | Source[], options?: Options): Promise<Bundle>;

/** Bundle in a worker. The facts are those of a Bundle; bytesRead and requests as of the last call. */
export type WorkerBundle = Readonly<
  Pick<Bundle, "tasks" | "baseModel" | "library" | "size" | "bytesRead" | "requests">
> &
  Pick<Bundle, "config" | "extract" | "tensors" | "verify" | "close">;

/** Opens a bundle in a worker, so that decoding does not block the page. The worker runs
 * `answerCalls(self)`. Sources are those that can be sent to a worker: no Response, no reader. */
export function openInWorker(
  worker: Worker | MessagePort,
  from: Exclude<Source, Response | { read: unknown }> | Exclude<Source, Response>[],
  options?: Pick<Options, "keepCore" | "limits" | "signal"> & { wasm?: string | WebAssembly.Module },
): Promise<WorkerBundle>;

/** Answers the calls of `openInWorker`, in a worker. */
export function answerCalls(scope: unknown): void;
