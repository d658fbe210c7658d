/** The package in Node: paths and file: URLs are sources as well. */

import { open, readFile, stat } from "node:fs/promises";
import { fileURLToPath } from "node:url";

import { opener } from "./bundle.js";
import { HydraError } from "./error.js";
import { Source } from "./source.js";
import { answerer } from "./worker.js";

export { Bundle } from "./bundle.js";
export { HydraError };
export { openInWorker } from "./worker.js";

/** Runs `work`; what the system refuses becomes a HydraError. */
async function trying(path, work) {
  try {
    return await work();
  } catch (error) {
    if (error instanceof HydraError || typeof error?.code !== "string") throw error;
    const code = error.code === "ENOENT" ? "not there" : "io";
    throw new HydraError(code, `${path}: cannot be read (${error.message}); check the path`);
  }
}

async function sourceOf(path) {
  const before = await trying(path, () => stat(path));
  if (!before.isFile())
    throw new HydraError("io", `${path}: not a file; of a folder give its files, as a list`);
  /** Opens the file for one range, so that a bundle that is never closed holds no file open. */
  const read = (offset, size) =>
    trying(path, async () => {
      const file = await open(path);
      try {
        const now = await file.stat();
        if (now.size !== before.size || now.mtimeMs !== before.mtimeMs)
          throw new HydraError("io", `${path}: the file has changed since it was opened; open it again`);
        const bytes = new Uint8Array(size);
        let done = 0;
        while (done < size) {
          const { bytesRead } = await file.read(bytes, done, size - done, offset + done);
          if (!bytesRead) break;
          done += bytesRead;
        }
        return bytes.subarray(0, done);
      } finally {
        await file.close();
      }
    });
  return new Source(before.size, read, path);
}

const files = {
  /** The path that a string or URL names; null for an address of the network. */
  pathOf(from) {
    const text = String(from);
    if (/^file:/i.test(text)) {
      try {
        return fileURLToPath(text);
      } catch (error) {
        throw new HydraError("usage", `${text}: no file: URL of this machine (${error.message})`);
      }
    }
    return /^[a-z][a-z0-9+.-]+:/i.test(text) ? null : text; // C: is a drive
  },
  sourceOf,
  bytesOf: (path) => trying(path, () => readFile(path)),
};

export const openBundle = opener(files);
export const answerCalls = answerer(openBundle);
