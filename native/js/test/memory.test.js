import assert from "node:assert/strict";
import { test } from "node:test";

import { openBundle } from "hydraopt";

const TEXT = 2 ** 31 + 1024;
const INFO = 2 ** 31 + 2048;
const ROOM = 2 ** 31 + 4096;

test("addresses above 2 GiB, which wasm hands out as negative numbers, are read", async (t) => {
  const buffer = new ArrayBuffer(2 ** 31 + 2 ** 16);
  const view = new DataView(buffer);
  new Uint8Array(buffer).set(new TextEncoder().encode("org/tiny"), TEXT);
  view.setUint32(INFO, TEXT, true);
  let imports;
  const exports = {
    memory: { buffer },
    take: () => ROOM | 0,
    give: () => undefined,
    open: () => (imports.read_at(0, 0, (ROOM + 64) | 0, 4) ? 9 : 0),
    base_model: () => TEXT | 0,
    library: () => 0,
    task_count: () => 1,
    describe: () => INFO | 0,
    keep_core: () => 0,
    write_peft: () => {
      imports.begin(TEXT | 0, 4);
      return imports.write((ROOM + 64) | 0, 4) || imports.end();
    },
  };
  t.mock.method(WebAssembly, "instantiate", async (_, { hydra }) => {
    imports = hydra;
    return { exports };
  });
  const wasm = new WebAssembly.Module(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0]));
  const bundle = await openBundle(new Uint8Array([1, 2, 3, 4]), { wasm });
  assert.equal(bundle.baseModel, "org/tiny");
  assert.equal(bundle.tasks[0].name, "org/tiny");
  assert.equal(view.getFloat64(ROOM, true), 4);
  assert.equal(imports.number(TEXT | 0, 3), NaN);
  assert.equal(imports.text("f".charCodeAt(0), 1, 0.5, ROOM | 0, 8), 3);
  const [file] = await bundle.extract("org/tiny");
  assert.deepEqual(file, { name: "org/tiny", data: new Uint8Array([1, 2, 3, 4]) });
});
