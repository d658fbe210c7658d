/** Where the bytes of a file come from: a Blob, bytes in memory, a URL, a Response, a path in Node, or
 * your own reader.
 * Ranges that were read are kept until `forget`, so that a call into WebAssembly can be repeated. */

import { HydraError } from "./error.js";
import { eitherOf } from "./signal.js";

/** Bytes that are asked for at once when nothing is known of a file yet. */
const FIRST = 16384;

export class Source {
  /** size: of the file. read(offset, size, signal): a promise of exactly these bytes. name: or
   * undefined. */
  constructor(size, read, name) {
    this.size = size;
    this.name = name;
    this.bytesRead = 0;
    this.requests = 0;
    this.read = read;
    this.parts = [];
  }

  /** What `openBundle` takes for one file, as a Source. files: of node.js, or undefined. */
  static async of(from, options, files) {
    if (typeof from === "string" || from instanceof URL) {
      const path = files?.pathOf(from) ?? null;
      return path === null ? fromUrl(String(from), options) : files.sourceOf(path);
    }
    if (typeof Response !== "undefined" && from instanceof Response) {
      const source = new Whole(await bodyOf(from), from.url || undefined);
      source.count(source.parts[0].bytes);
      return source;
    }
    if (from instanceof ArrayBuffer) return new Whole(new Uint8Array(from));
    if (ArrayBuffer.isView(from))
      return new Whole(new Uint8Array(from.buffer, from.byteOffset, from.byteLength));
    if (typeof Blob !== "undefined" && from instanceof Blob)
      return new Source(from.size, async (offset, size) =>
        new Uint8Array(await from.slice(offset, offset + size).arrayBuffer()),
        from.name,
      );
    if (typeof from?.getFile === "function") return Source.of(await from.getFile(), options, files);
    if (from && typeof from.read === "function" && Number.isSafeInteger(from.size))
      return new Source(from.size, (...range) => from.read(...range));
    throw new HydraError(
      "usage",
      "a bundle is a Blob, a FileSystemFileHandle, an ArrayBuffer, a typed array, a URL, a Response, " +
        "in Node a path, or {size, read(offset, size)}",
    );
  }

  /** The bytes, if they are here already; else undefined. */
  held(offset, size) {
    const part = this.parts.find(
      (x) => x.offset <= offset && offset + size <= x.offset + x.bytes.length,
    );
    return part?.bytes.subarray(offset - part.offset, offset - part.offset + size);
  }

  /** Whether it is a folder's index, which says what the task files say; it is one by its header. */
  async isIndex() {
    if (!this.held(0, Math.min(8, this.size))) await this.fetch(0, 8);
    const head = this.held(0, Math.min(FIRST, this.size));
    if (head.length < 8) return false;
    const length = new DataView(head.buffer, head.byteOffset).getUint32(0, true);
    const text = new TextDecoder().decode(head.subarray(8, 8 + length));
    return /"format"\s*:\s*"hydraopt-index"/.test(text); // a quote inside of a text has a backslash
  }

  /** Fetches bytes and holds them; what is held of their start is not fetched again. */
  async fetch(offset, size, signal) {
    const end = offset === 0 ? Math.min(Math.max(size, FIRST), this.size) : offset + size;
    const covers = (x) => x.offset <= offset && offset < x.offset + x.bytes.length;
    const part = this.parts.find(covers);
    const start = part?.bytes.subarray(offset - part.offset, end - part.offset);
    const from = offset + (start?.length ?? 0);
    if (start && from === end) return;
    const bytes = await this.read(from, end - from, signal);
    if (bytes.length !== end - from)
      throw new HydraError(
        "io",
        `${this.name ?? "the bundle"}: ${bytes.length} bytes at ${from} came, ${end - from} were asked for`,
      );
    this.count(bytes);
    this.parts.push({ offset, bytes: start ? joined(start, bytes) : bytes });
  }

  /** Counts bytes of one request. */
  count(bytes) {
    this.bytesRead += bytes.length;
    this.requests += 1;
  }

  /** Gives back what is held. */
  forget() {
    this.parts = [];
  }
}

function joined(start, end) {
  const whole = new Uint8Array(start.length + end.length);
  whole.set(start);
  whole.set(end, start.length);
  return whole;
}

/** All bytes are here, so that none are read. */
class Whole extends Source {
  constructor(bytes, name) {
    super(bytes.length, undefined, name);
    this.parts = [{ offset: 0, bytes }];
  }

  forget() {}
}

/** The whole body of a Response. */
async function bodyOf(answer) {
  const name = answer.url || "the response";
  if (!answer.ok)
    throw new HydraError("io", `${name}: the server answers ${answer.status} ${answer.statusText}`);
  if (answer.bodyUsed)
    throw new HydraError("usage", `${name}: its body has been read already; fetch it again`);
  try {
    return new Uint8Array(await answer.arrayBuffer());
  } catch (error) {
    if (error?.name === "AbortError") throw error;
    throw new HydraError("io", `${name}: cannot be read (${error.message}); fetch it again`);
  }
}

/** All bytes of a file that comes whole: of bytes, a Response, a URL, or in Node a path. */
export async function bytesOf(from, files) {
  if (from instanceof ArrayBuffer || ArrayBuffer.isView(from)) return from;
  if (typeof Response !== "undefined" && from instanceof Response) return bodyOf(from);
  const path = files?.pathOf(from) ?? null;
  if (path !== null) return files.bytesOf(path);
  let answer;
  try {
    answer = await fetch(from);
  } catch (error) {
    throw new HydraError("io", `${from}: cannot be fetched (${error.message}); check the address`);
  }
  return bodyOf(answer);
}

/** By ranges; a server without them gives the whole file once. */
async function fromUrl(url, { fetch = globalThis.fetch, signal } = {}) {
  const tried = async (work, stop) => {
    try {
      return await work();
    } catch (error) {
      if (error?.name === "AbortError" || stop?.aborted) throw error;
      const do_ = /^https?:/.test(url)
        ? "check the address and the server"
        : "of a file on this machine give a File, as an <input type=file> has it";
      throw new HydraError("io", `${url}: cannot be fetched (${error.message}); ${do_}`);
    }
  };
  const ask = async (offset, size, stop, tag) => {
    const headers = { Range: `bytes=${offset}-${offset + size - 1}` };
    if (tag) headers["If-Range"] = tag;
    const answer = await tried(() => fetch(url, { headers, signal: stop }), stop);
    if (answer.status !== 206 && answer.status !== 200)
      throw new HydraError("io", `${url}: the server answers ${answer.status} ${answer.statusText}`);
    return answer;
  };
  const body = (answer, stop) =>
    tried(async () => new Uint8Array(await answer.arrayBuffer()), stop);
  const first = await ask(0, FIRST, signal);
  const bytes = await body(first, signal);
  if (first.status === 200) {
    const source = new Whole(bytes, url);
    source.count(bytes);
    return source;
  }
  const stated = /^bytes 0-(\d+)\/(\d+)$/.exec(first.headers.get("Content-Range") ?? "");
  if (!stated || Number(stated[1]) !== bytes.length - 1)
    throw new HydraError("io", `${url}: the server does not say how long the file is`);
  const etag = first.headers.get("ETag");
  const tag = etag && !etag.startsWith("W/") ? etag : undefined;
  const read = async (offset, size, one) => {
    const stop = eitherOf(one, signal);
    const answer = await ask(offset, size, stop, tag);
    if (answer.status !== 206)
      throw new HydraError("io", `${url}: the file has changed since it was opened; open it again`);
    return body(answer, stop);
  };
  const source = new Source(Number(stated[2]), read, url);
  source.count(bytes);
  source.parts.push({ offset: 0, bytes });
  return source;
}
