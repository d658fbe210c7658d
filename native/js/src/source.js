/** Where the bytes of a file come from: a Blob, bytes in memory, a URL, or your own reader.
 * Ranges that were read are kept until `forget`, so that a call into WebAssembly can be repeated. */

import { HydraError } from "./error.js";

/** Bytes that are asked for at once when nothing is known of a file yet. */
const FIRST = 16384;

export class Source {
  /** size: of the file. read(offset, size): a promise of exactly these bytes. */
  constructor(size, read) {
    this.size = size;
    this.bytesRead = 0;
    this.requests = 0;
    this.read = read;
    this.parts = [];
  }

  /** What `openBundle` takes for one file, as a Source. */
  static async of(from, options) {
    if (typeof from === "string" || from instanceof URL) return fromUrl(String(from), options);
    if (from instanceof ArrayBuffer) return fromBytes(new Uint8Array(from));
    if (ArrayBuffer.isView(from))
      return fromBytes(new Uint8Array(from.buffer, from.byteOffset, from.byteLength));
    if (typeof Blob !== "undefined" && from instanceof Blob)
      return new Source(from.size, async (offset, size) =>
        new Uint8Array(await from.slice(offset, offset + size).arrayBuffer()),
      );
    if (from && typeof from.read === "function" && Number.isSafeInteger(from.size))
      return new Source(from.size, (offset, size) => from.read(offset, size));
    throw new HydraError(
      "usage",
      "a bundle is a Blob, an ArrayBuffer, a typed array, a URL, or {size, read(offset, size)}",
    );
  }

  /** The bytes, if they are here already; else undefined. */
  held(offset, size) {
    const part = this.parts.find(
      (x) => x.offset <= offset && offset + size <= x.offset + x.bytes.length,
    );
    return part?.bytes.subarray(offset - part.offset, offset - part.offset + size);
  }

  /** Fetches bytes and holds them. */
  async fetch(offset, size) {
    const wanted = offset === 0 ? Math.min(Math.max(size, FIRST), this.size) : size;
    const bytes = await this.read(offset, wanted);
    if (bytes.length !== wanted)
      throw new HydraError(
        "io",
        `${bytes.length} bytes at ${offset} came, ${wanted} were asked for`,
      );
    this.hold(offset, bytes);
  }

  hold(offset, bytes) {
    this.bytesRead += bytes.length;
    this.requests += 1;
    this.parts.push({ offset, bytes });
  }

  /** Gives back what is held. */
  forget() {
    this.parts = [];
  }
}

function fromBytes(bytes) {
  return new Source(bytes.length, async (offset, size) => bytes.subarray(offset, offset + size));
}

/** By ranges; a server without them gives the whole file once. */
async function fromUrl(url, { fetch = globalThis.fetch, signal } = {}) {
  const ask = async (offset, size, tag) => {
    const headers = { Range: `bytes=${offset}-${offset + size - 1}` };
    if (tag) headers["If-Range"] = tag;
    let answer;
    try {
      answer = await fetch(url, { headers, signal });
    } catch (error) {
      if (error?.name === "AbortError" || signal?.aborted) throw error;
      const do_ = /^https?:/.test(url)
        ? "check the address and the server"
        : "of a file on this machine give a Blob: in Node `await openAsBlob(path)` of node:fs";
      throw new HydraError("io", `${url}: cannot be fetched (${error.message}); ${do_}`);
    }
    if (answer.status !== 206 && answer.status !== 200)
      throw new HydraError("io", `${url}: the server answers ${answer.status} ${answer.statusText}`);
    return answer;
  };
  const first = await ask(0, FIRST);
  const bytes = new Uint8Array(await first.arrayBuffer());
  if (first.status === 200) {
    const source = fromBytes(bytes);
    source.hold(0, bytes);
    return source;
  }
  const stated = /^bytes 0-(\d+)\/(\d+)$/.exec(first.headers.get("Content-Range") ?? "");
  if (!stated || Number(stated[1]) !== bytes.length - 1)
    throw new HydraError("io", `${url}: the server does not say how long the file is`);
  const etag = first.headers.get("ETag");
  const tag = etag && !etag.startsWith("W/") ? etag : undefined;
  const source = new Source(Number(stated[2]), async (offset, size) => {
    const answer = await ask(offset, size, tag);
    if (answer.status !== 206)
      throw new HydraError("io", `${url}: the file has changed since it was opened; open it again`);
    return new Uint8Array(await answer.arrayBuffer());
  });
  source.hold(0, bytes);
  return source;
}
