"use strict";
// Numbers as people read them. H holds what the scripts of this page share.
const H = {};

H.bytes = (count) => {
  if (count === null || count === undefined) return "-";
  for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (count >= size) return `${(count / size).toFixed(count < 10 * size ? 2 : 1)} ${unit}`;
  }
  return `${count} bytes`;
};
H.whole = (count) => count.toLocaleString("en-US");
H.missing = (value) => value === null || value === undefined;
H.percent = (share, digits = 1) => (H.missing(share) ? "-" : `${(100 * share).toFixed(digits)} %`);
H.error = (value) => (H.missing(value) ? "-" : value.toFixed(3));
H.nats = (value) => (H.missing(value) ? "-" : `${Number(value.toPrecision(3))} nats`);
H.points = (value) => (H.missing(value) ? "-" : `${value > 0 ? "+" : ""}${value.toFixed(2)}`);
H.score = (value) => (H.missing(value) ? "-" : value.toFixed(2));
H.count = (count, name) => `${H.whole(count)} ${name}${count === 1 ? "" : "s"}`;
H.interval = (row) =>
  H.missing(row) || H.missing(row.difference)
    ? "-"
    : `${H.points(row.difference)} [${H.points(row.low)}, ${H.points(row.high)}]`;

// A name too long for an axis loses its middle.
H.short = (text, most) => {
  const letters = Array.from(text);
  if (letters.length <= most) return text;
  const half = Math.floor((most - 1) / 2);
  return `${letters.slice(0, half).join("")}…${letters.slice(-half).join("")}`;
};

// A path too long for an axis: its words lose their ends, but not its last two, nor its numbers.
H.shortPath = (path, most) => {
  const parts = path.split(/([._:]+)/);
  for (let kept = 8; kept > 0 && parts.join("").length > most; kept--) {
    for (let i = 0; i < parts.length - 3; i += 2) if (!/\d/.test(parts[i])) parts[i] = Array.from(parts[i]).slice(0, kept).join("");
  }
  return H.short(parts.join(""), most);
};

// What paths begin with alike, up to a separator.
H.beginning = (paths) => {
  let most = paths.length ? paths[0] : "";
  for (const path of paths) while (!path.startsWith(most)) most = most.replace(/[^._:]*[._:]?$/, "");
  return most;
};

// Measures of a size, by key. scale: factor from the stored number to the axis. knee: value on the
// axis from which it is logarithmic, so that small harm stays readable beside large harm.
H.measures = {
  changed: { label: "answers that change (measured)", axis: "answers that change, %", scale: 100, knee: 1, text: H.percent },
  likely: { label: "answers likely to change", axis: "answers likely to change, %", scale: 100, knee: 1, text: H.percent },
  kl: { label: "KL an answer", axis: "KL an answer, nats", scale: 1, knee: 0.01, text: H.nats },
  drop: { label: "drop of the score", axis: "drop of the score, points", scale: 1, knee: 1, text: (x) => `${H.points(x)} points` },
  error: { label: "relative error of the weights", axis: "relative error of the weights", scale: 1, text: H.error },
};
