/** The package in browsers, and wherever else there are no files of the system. */

import { opener } from "./bundle.js";

export { Bundle } from "./bundle.js";
export { HydraError } from "./error.js";
export const openBundle = opener();
