/** Opens and extracts in whichever runtime runs it: node, deno run -A, bun. Argument: a bundle. */
import { openBundle } from "hydraopt";

const path = globalThis.process.argv[2];
const bundle = await openBundle(path);
const files = await bundle.extract(bundle.tasks[0].name);
await bundle.verify();
console.log(JSON.stringify(files.map(({ name, data }) => [name, data.length])));
bundle.close();
