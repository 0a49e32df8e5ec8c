// The numbers of a text attribution: reading, summing, ranking and formatting them. Touches no element.

const LARGEST = 32766; // on large pages token values are whole shares of the largest of their token

/** Decodes what `llm_attr.viz.text.script.numbers` wrote. */
export function read({ additive, limit, unit_values, token_values, groups }) {
  const whole = new Float64Array(bytes(unit_values));
  const rows = "values" in token_values ? exact(token_values, whole.length) : coded(token_values, whole.length);
  return { additive, whole, rows, groups, limit, needs: rows.map(extent) };
}

function bytes(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)).buffer;
}

function exact({ values }, count) {
  const all = new Float64Array(bytes(values));
  return Array.from({ length: count && all.length / count }, (_, token) => all.subarray(token * count, (token + 1) * count));
}

function coded({ ends, shares }, count) {
  const all = new Int16Array(bytes(shares));
  return Array.from(new Float64Array(bytes(ends)), (end, token) =>
    Float64Array.from(all.subarray(token * count, (token + 1) * count), (share) => decode(share, end)));
}

function decode(share, end) {
  if (Math.abs(share) <= LARGEST) return (share / LARGEST) * end;
  return share < -LARGEST - 1 ? NaN : share * Infinity;
}

/** The largest finite |value|. */
export function extent(values) {
  let largest = 0;
  for (const value of values) if (Number.isFinite(value) && Math.abs(value) > largest) largest = Math.abs(value);
  return largest;
}

/** The units' values for the selected tokens: their sum, or the values for the full answer. */
export function valuesOf({ whole, rows, selected }) {
  if (!selected) return whole;
  const sums = new Float64Array(whole.length);
  for (const row of rows.slice(...selected)) row.forEach((value, unit) => (sums[unit] += value));
  return sums;
}

/** The positions by descending |value|; ties in reading order, NaN last. */
export function ranked(values) {
  const size = values.map((value) => (Number.isNaN(value) ? -1 : Math.abs(value)));
  return [...values.keys()].sort((a, b) => size[b] - size[a] || a - b);
}

export function total(values, first = 0, stop = values.length) {
  return values.subarray(first, stop).reduce((sum, value) => sum + value, 0);
}

/** How far the values reach to each side of zero, as shares of the limit; the shorter side has at least a twelfth. */
export function reach(values, limit) {
  const side = (sign) => values.reduce((far, value) => (Number.isNaN(value) ? far : Math.max(far, sign * value)), 0);
  const [low, high] = [-1, 1].map((sign) => (limit ? Math.min(side(sign) / limit, 1) : 0));
  const least = Math.max(low, high) / 12;
  return [Math.max(low, least), Math.max(high, least)];
}

/** The number as the page formats it: with its sign, to three digits of the largest value shown. */
export function formatNumber(value, limit) {
  if (Number.isNaN(value)) return "nan";
  const sign = value > 0 ? "+" : "−";
  const size = Math.abs(value);
  if (size === Infinity) return `${sign}inf`;
  if (limit && (limit < 1e-3 || limit >= 1e5)) {
    const [digits, power] = size.toExponential(2).split("e");
    return `${value < 0 ? sign : "+"}${digits}e${power < 0 ? "−" : "+"}${power.slice(1).padStart(2, "0")}`;
  }
  const text = size.toFixed(limit ? Math.min(Math.max(2 - Math.floor(Math.log10(limit)), 0), 5) : 0);
  return Number(text) ? sign + text : text;
}
