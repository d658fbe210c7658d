/** Bundles for the tests, made by hydraopt itself: `python native/js/test/make.py FOLDER`. */
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

const given = process.env.HYDRA_JS_BUNDLES ?? fileURLToPath(new URL("made/", import.meta.url));

/** What an async iterable yields. */
export async function all(iterable) {
  const found = [];
  for await (const x of iterable) found.push(x);
  return found;
}

/** Their folder; the message says how to make them. */
export function made() {
  if (!existsSync(`${given}/bundle.hydra.safetensors`))
    throw new Error(`no bundles in ${given}: run python native/js/test/make.py ${given}`);
  return given;
}
