#!/usr/bin/env node
/** Serves the demo page, the package's sources and, on request, one bundle, with ranges.
 *     node demo/serve.js [BUNDLE] [--port 8080]
 * It listens on this machine only. */

import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize, sep } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const TYPES = {
  ".css": "text/css; charset=utf-8",
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".wasm": "application/wasm",
};

/** A file of the package, or the bundle; null for everything else. */
function fileOf(path, bundle) {
  if (path === "/bundle") return bundle;
  const name = normalize(decodeURIComponent(path === "/" ? "/demo/index.html" : path));
  const inside = [`${sep}demo${sep}`, `${sep}src${sep}`].some((x) => name.startsWith(x));
  return inside ? join(ROOT, name) : null;
}

/** [first, last] byte of a Range header, undefined without one, null for one that cannot be. */
function rangeOf(header, size) {
  if (!header) return undefined;
  const parts = /^bytes=(\d+)-(\d*)$/.exec(header);
  if (!parts) return null;
  const first = Number(parts[1]);
  const last = Math.min(parts[2] ? Number(parts[2]) : size - 1, size - 1);
  return first <= last ? [first, last] : null;
}

export function serve({ bundle = null, port = 0 } = {}) {
  const server = createServer(async (request, response) => {
    try {
      const file = fileOf(new URL(request.url, "http://localhost").pathname, bundle);
      const about = file && (await stat(file));
      if (!about?.isFile()) throw new Error("no such file");
      const range = rangeOf(request.headers.range, about.size);
      if (range === null) {
        response.writeHead(416, { "Content-Range": `bytes */${about.size}` }).end();
        return;
      }
      const [start, end] = range ?? [0, about.size - 1];
      response.writeHead(range ? 206 : 200, {
        "Accept-Ranges": "bytes",
        "Content-Length": about.size ? end - start + 1 : 0,
        "Content-Type": TYPES[extname(file)] ?? "application/octet-stream",
        ...(range && { "Content-Range": `bytes ${start}-${end}/${about.size}` }),
        ETag: `"${about.size}-${about.mtimeMs}"`,
      });
      if (request.method === "HEAD" || !about.size) response.end();
      else createReadStream(file, { start, end }).pipe(response);
    } catch {
      response.writeHead(404, { "Content-Type": "text/plain" }).end("not here\n");
    }
  });
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, "127.0.0.1", () => resolve(server));
  });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const given = process.argv.slice(2);
  const at = given.indexOf("--port");
  const port = at < 0 ? 8080 : Number(given.splice(at, 2)[1]);
  const server = await serve({ bundle: given[0] ?? null, port });
  const query = given[0] ? "?bundle=/bundle" : "";
  console.log(`http://127.0.0.1:${server.address().port}/${query}`);
}
