import assert from "node:assert/strict";
import { test } from "node:test";

import { printed } from "../src/printed.js";

test("digits are those of C", () => {
  const said = [
    ["f", 2, 0.125, "0.12"],
    ["f", 2, 0.375, "0.38"],
    ["f", 0, 0.5, "0"],
    ["f", 0, 1.5, "2"],
    ["f", 2, 99.999, "100.00"],
    ["f", 3, 0, "0.000"],
    ["f", 1, 1e22, "10000000000000000000000.0"],
    ["g", 3, 0, "0"],
    ["g", 3, 0.0001, "0.0001"],
    ["g", 3, 0.00001234, "1.23e-05"],
    ["g", 3, 999.9, "1e+03"],
    ["g", 3, 120, "120"],
    ["g", 3, 0.5, "0.5"],
    ["g", 1, 0.15, "0.1"],
    ["e", 16, 0.1, "1.0000000000000001e-01"],
    ["e", 0, 9.5, "1e+01"],
    ["e", 0, 8.5, "8e+00"],
    ["e", 3, 5e-324, "4.941e-324"],
    ["e", 3, -1.7976931348623157e308, "-1.798e+308"],
    ["g", 3, NaN, "nan"],
  ];
  for (const [kind, precision, value, text] of said)
    assert.equal(printed(kind, precision, value), text);
});

test("the shortest digits that come back are found as C finds them", () => {
  for (let i = 0; i < 2000; i++) {
    const value = (Math.random() - 0.5) * 10 ** (600 * Math.random() - 300);
    assert.equal(Number(printed("e", 16, value)), value);
  }
});
