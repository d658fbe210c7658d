/** The demo page in a real browser. CHROMIUM: its path; without one the test says that it is
 * skipped. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

import { serve } from "../demo/serve.js";
import { made } from "./bundles.js";

const chromium = process.env.CHROMIUM ?? "/usr/bin/chromium";
const QUIET = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];
const skip = existsSync(chromium) ? false : `no browser at ${chromium}`;

test("a page opens a bundle and gives adapters", { skip, timeout: 120000 }, async () => {
  const { chromium: browser } = await import("playwright-core");
  const folder = made();
  const server = await serve({ bundle: `${folder}/bundle.hydra.safetensors` });
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
});
