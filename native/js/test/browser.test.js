/** The demo page in a real browser: as it is, and bundled by esbuild and by webpack from the packed
 * package. CHROMIUM: the browser's path. HYDRA_JS_BUNDLERS: a folder whose node_modules has esbuild
 * and webpack. What is missing is skipped, and the test says so. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { copyFile, mkdir, mkdtemp, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";

import { serve } from "../demo/serve.js";
import { made } from "./bundles.js";

const package_ = fileURLToPath(new URL("..", import.meta.url));

const chromium = process.env.CHROMIUM ?? "/usr/bin/chromium";
const QUIET = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];
const skip = existsSync(chromium) ? false : `no browser at ${chromium}`;

/** Clicks through the page that lies in a folder; without one through the demo itself. */
async function clickThrough(pages) {
  const { chromium: browser } = await import("playwright-core");
  const folder = made();
  const server = await serve({ bundle: `${folder}/bundle.hydra.safetensors`, root: pages });
  const running = await browser.launch({ executablePath: chromium, args: QUIET });
  try {
    const page = await running.newPage({ acceptDownloads: true });
    const wrong = [];
    page.on("pageerror", (error) => wrong.push(error.message));
    page.on("console", (line) => line.type() === "error" && wrong.push(line.text()));
    const root = `http://127.0.0.1:${server.address().port}`;
    await page.goto(`${root}/?bundle=/bundle`);
    await page.waitForSelector("tbody tr");
    assert.equal(await page.locator("tbody tr").count(), 3);
    const name = await page.locator("tbody tr td").first().textContent();
    const downloads = [];
    page.on("download", (download) => downloads.push(download));
    await page.getByLabel(`${name} as PEFT files`).click();
    await page.waitForFunction(() => / ms$/.test(document.getElementById("status").textContent));
    await page.getByLabel("config.json").setInputFiles(`${folder}/base/config.json`);
    await page.getByLabel(`${name} as GGUF`).click();
    await page.waitForFunction(() => / kB in /.test(document.getElementById("status").textContent));
    for (let i = 0; downloads.length < 3 && i < 100; i++) await page.waitForTimeout(50);
    const weights = downloads.find((x) => x.suggestedFilename().endsWith("model.safetensors"));
    const got = await readFile(await weights.path());
    assert.ok(got.equals(await readFile(`${folder}/${name}/peft/adapter_model.safetensors`)));
    assert.ok(downloads.some((x) => x.suggestedFilename().endsWith(".gguf")));
    await page.getByLabel("Bundle file").setInputFiles(`${folder}/carried.hydra.safetensors`);
    await page.waitForFunction(() =>
      document.getElementById("title").textContent.startsWith("carried"),
    );
    assert.deepEqual(wrong, []);
    if (process.env.HYDRA_JS_PICTURES) {
      await page.screenshot({ path: `${process.env.HYDRA_JS_PICTURES}/wide.png` });
      await page.setViewportSize({ width: 390, height: 800 });
      await page.screenshot({ path: `${process.env.HYDRA_JS_PICTURES}/phone.png` });
    }
  } finally {
    await running.close();
    server.close();
  }
}

test("a page opens a bundle and gives adapters", { skip, timeout: 120000 }, () => clickThrough());

test("a page with a content security policy opens a file of OPFS", { skip, timeout: 120000 }, async () => {
  const { chromium: browser } = await import("playwright-core");
  const server = await serve({ bundle: `${made()}/bundle.hydra.safetensors` });
  const running = await browser.launch({ executablePath: chromium, args: QUIET });
  try {
    const page = await running.newPage();
    const policy = "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'";
    const headers = { "Content-Security-Policy": policy, "Content-Type": "text/html" };
    await page.route("**/strict", (route) => route.fulfill({ headers, body: "<!doctype html>" }));
    await page.goto(`http://127.0.0.1:${server.address().port}/strict`);
    const [tasks, modules] = await page.evaluate(async () => {
      const { openBundle } = await import("/src/index.js");
      const root = await navigator.storage.getDirectory();
      const handle = await root.getFileHandle("tasks.hydra.safetensors", { create: true });
      const answer = await fetch("/bundle");
      await answer.body.pipeTo(await handle.createWritable());
      const bundle = await openBundle(handle);
      let count = 0;
      for await (const { k, a, n } of bundle.pairs(bundle.tasks[0].name)) count += a.length === k * n;
      return [bundle.tasks.length, count - bundle.tasks[0].modules];
    });
    assert.deepEqual([tasks, modules], [3, 0]);
  } finally {
    await running.close();
    server.close();
  }
});

/** What each bundler makes of `entry`, in `folder`: `name`.js and what it needs beside it. */
const BUNDLERS = {
  async esbuild(load, entry, folder, name, platform) {
    const to = { outfile: join(folder, `${name}.js`), format: "esm", platform };
    const done = await load("esbuild").build({ entryPoints: [entry], bundle: true, ...to });
    assert.deepEqual([done.errors, done.warnings], [[], []]);
    const wasm = join(entry, "../node_modules/hydraopt/src/hydra.wasm");
    await copyFile(wasm, join(folder, "hydra.wasm")); // esbuild leaves it to its user
  },
  async webpack(load, entry, folder, name, platform) {
    const output = { path: folder, filename: `${name}.js`, module: true, chunkFormat: "module" };
    const target = platform === "node" ? "node20" : "web";
    const experiments = { outputModule: true };
    const config = { mode: "production", context: join(entry, ".."), entry, output, target, experiments };
    const stats = await new Promise((resolve, reject) =>
      load("webpack")(config, (error, done) => (error ? reject(error) : resolve(done))),
    );
    const { errors, warnings } = stats.toJson({ all: false, errors: true, warnings: true });
    assert.deepEqual([errors, warnings], [[], []]);
  },
};

const tools = process.env.HYDRA_JS_BUNDLERS;
const without = tools ? false : "HYDRA_JS_BUNDLERS names no folder with esbuild and webpack";

describe("bundled from the packed package", { skip: without }, () => {
  const load = tools && createRequire(join(tools, "package.json"));
  let folder, project;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "hydra-bundled-"));
    project = join(folder, "project");
    const place = join(project, "node_modules/hydraopt");
    await mkdir(place, { recursive: true });
    execFileSync("npm", ["pack", "--silent", "--pack-destination", folder], { cwd: package_ });
    const [packed] = (await readdir(folder)).filter((name) => name.endsWith(".tgz"));
    execFileSync("tar", ["-xzf", join(folder, packed), "--strip-components=1", "-C", place]);
    for (const name of ["demo.js", "demo.css", "index.html"])
      await copyFile(join(package_, "demo", name), join(project, name));
    await writeFile(join(project, "package.json"), '{"type": "module"}');
    await writeFile(
      join(project, "list.js"),
      'import { openBundle } from "hydraopt";\n' +
        "const bundle = await openBundle(process.argv[2]);\n" +
        "console.log(JSON.stringify(bundle.tasks.map((task) => task.name)));\n",
    );
  });
  after(() => rm(folder, { recursive: true }));

  for (const [name, bundle] of Object.entries(BUNDLERS)) {
    test(`${name}, for a browser`, { skip, timeout: 240000 }, async () => {
      const demo = join(folder, name, "demo");
      await mkdir(demo, { recursive: true });
      await bundle(load, join(project, "demo.js"), demo, "demo", "browser");
      for (const file of ["demo.css", "index.html"])
        await copyFile(join(project, file), join(demo, file));
      assert.doesNotMatch(await readFile(join(demo, "demo.js"), "utf8"), /node:|"fs"/);
      await clickThrough(join(folder, name));
    });

    test(`${name}, for Node`, { timeout: 240000 }, async () => {
      const out = join(folder, name, "node");
      await mkdir(out, { recursive: true });
      await writeFile(join(out, "package.json"), '{"type": "module"}');
      await bundle(load, join(project, "list.js"), out, "list", "node");
      const file = `${made()}/bundle.hydra.safetensors`;
      const said = execFileSync(process.execPath, [join(out, "list.js"), file], { encoding: "utf8" });
      assert.equal(JSON.parse(said).length, 3);
    });
  }
});
