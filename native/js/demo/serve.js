#!/usr/bin/env node
/** Serves the demo page, the package's sources and, on request, a bundle, with ranges. See HELP. */

import { createReadStream, realpathSync } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const USAGE = "Usage: node demo/serve.js [BUNDLE] [--port 8080]";
const HELP = `${USAGE}

Serves a page that shows a bundle's tasks and gives them as PEFT files or GGUF. Without BUNDLE the
page asks for one. It listens on this machine only, until Ctrl-C.

  --port N   the port, from 0 to 65535; 0 takes any that is free (8080)

Example: node demo/serve.js phone.hydra.safetensors`;
const ROOT = fileURLToPath(new URL("..", import.meta.url));
const TYPES = {
  ".css": "text/css; charset=utf-8",
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".wasm": "application/wasm",
};

/** A file of the package, or the bundle; null for everything else. */
function fileOf(path, bundle, root) {
  if (path === "/bundle") return bundle;
  const name = normalize(decodeURIComponent(path === "/" ? "/demo/index.html" : path));
  const inside = [`${sep}demo${sep}`, `${sep}src${sep}`].some((x) => name.startsWith(x));
  return inside ? join(root, name) : null;
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

/** root: the folder that demo and src lie in. */
export function serve({ bundle = null, port = 0, root = ROOT } = {}) {
  const server = createServer(async (request, response) => {
    try {
      const file = fileOf(new URL(request.url, "http://localhost").pathname, bundle, root);
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

/** What the command line asks for: {bundle, port}, or null for help. */
async function asked(words) {
  let values, positionals;
  try {
    const options = { port: { type: "string" }, help: { type: "boolean", short: "h" } };
    ({ values, positionals } = parseArgs({ args: words, options, allowPositionals: true }));
  } catch (error) {
    throw new Error(`${error.message.split(". ")[0]}. ${USAGE}`);
  }
  if (values.help) return null;
  const [bundle = null, ...more] = positionals;
  const { port = "8080" } = values;
  if (more.length) throw new Error(`one bundle at most; got ${more[0]} as well. ${USAGE}`);
  if (!/^\d{1,5}$/.test(port) || Number(port) > 65535)
    throw new Error(`--port is a number from 0 (any) to 65535; got ${port}`);
  if (bundle && !(await stat(bundle).catch(() => null))?.isFile())
    throw new Error(`${bundle}: no such file. Name a bundle, a file that hydraopt merge wrote`);
  return { bundle, port: Number(port) };
}

async function main(words) {
  const what = await asked(words);
  if (!what) return console.log(HELP);
  await stat(join(ROOT, "src/hydra.wasm")).catch(() => {
    throw new Error(`src/hydra.wasm is not built. Run ./build in ${ROOT}`);
  });
  const server = await serve(what).catch((error) => {
    if (error.code !== "EADDRINUSE" && error.code !== "EACCES") throw error;
    const why = error.code === "EACCES" ? "is the system's" : "is in use";
    throw new Error(`port ${what.port} ${why}. Choose another: --port 0 takes any that is free`);
  });
  const query = what.bundle ? "?bundle=/bundle" : "";
  console.log(`http://127.0.0.1:${server.address().port}/${query}`);
}

// Not argv[1] itself: a path through a symbolic link is not that of the module.
if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url))
  main(process.argv.slice(2)).catch((error) => {
    console.error(`serve.js: ${error.message}`);
    process.exitCode = 1;
  });
