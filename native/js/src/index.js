/** The package in browsers, and wherever else there are no files of the system. */

import { opener } from "./bundle.js";
import { answerer } from "./worker.js";

export { Bundle } from "./bundle.js";
export { HydraError } from "./error.js";
export { openInWorker } from "./worker.js";
export const openBundle = opener();
export const answerCalls = answerer(openBundle);
