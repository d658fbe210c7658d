/** C's printf of doubles, digit by digit: JavaScript's own rounds ties up, C's to even. */

/** value * 10^places to the nearest integer, halves to even; exact. value: finite, >= 0. */
function scaled(value, places) {
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, value);
  const bits = view.getBigUint64(0);
  const field = Number(bits >> 52n);
  const fraction = bits & ((1n << 52n) - 1n);
  const mantissa = field ? fraction | (1n << 52n) : fraction;
  const exponent = Math.max(field, 1) - 1075;
  const power = (base, by) => BigInt(base) ** BigInt(Math.max(by, 0));
  const above = mantissa * power(2, exponent) * power(10, places);
  const below = power(2, -exponent) * power(10, -places);
  const whole = above / below;
  const rest = 2n * (above % below);
  return whole + (rest > below || (rest === below && whole % 2n) ? 1n : 0n);
}

/** [digits, power]: `count` digits, and the power of ten of the first; of 0 zeros. */
function digitsOf(value, count) {
  if (!value) return ["0".repeat(count), 0];
  let power = Number(value.toExponential(100).split("e")[1]);
  let digits = String(scaled(value, count - 1 - power));
  if (digits.length > count) {
    digits = digits.slice(0, count);
    power += 1;
  }
  return [digits, power];
}

/** printf's %.*f. */
function fixed(value, places) {
  const digits = String(scaled(value, places)).padStart(places + 1, "0");
  return places ? `${digits.slice(0, -places)}.${digits.slice(-places)}` : digits;
}

/** What C's printf makes of "%.*e", "%.*f" and "%.*g". kind: e, f or g. */
export function printed(kind, precision, value) {
  if (value < 0 || Object.is(value, -0)) return `-${printed(kind, precision, -value)}`;
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "nan" : "inf";
  if (kind === "f") return fixed(value, precision);
  const count = kind === "e" ? precision + 1 : Math.max(precision, 1);
  let [digits, power] = digitsOf(value, count);
  if (kind === "g") {
    if (power >= -4 && power < count) {
      const plain = fixed(value, count - 1 - power);
      return plain.includes(".") ? plain.replace(/\.?0+$/, "") : plain;
    }
    digits = digits.replace(/(?<=.)0+$/, "");
  }
  const point = digits.length > 1 ? "." : "";
  const places = String(Math.abs(power)).padStart(2, "0");
  return `${digits[0]}${point}${digits.slice(1)}e${power < 0 ? "-" : "+"}${places}`;
}
