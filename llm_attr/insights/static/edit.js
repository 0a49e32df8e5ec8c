// A request without one of its units, and what differs between two answers. Pure.

const FIELDS = (asked) => [
  ...Object.keys(asked.documents ?? {}).map((name) => ["documents", name]),
  ...(asked.messages ?? []).map((message, place) => ["messages", place, "content"]),
  ...(asked.prompt != null ? [["prompt"]] : []),
];

/** The request without the unit at this place of `units`, the texts of all units in order; null if it is not found. */
export function without(asked, units, unit) {
  const copy = structuredClone(asked);
  const fields = FIELDS(copy);
  let field = 0;
  let cursor = 0;
  for (let place = 0; place <= unit; place += 1) {
    const text = units[place];
    let at = -1;
    for (; field < fields.length; field += 1, cursor = 0) {
      at = textAt(copy, fields[field]).indexOf(text, cursor);
      if (at >= 0) break;
    }
    if (at < 0) return null;
    cursor = at + text.length;
    if (place === unit) {
      const whole = textAt(copy, fields[field]);
      setText(copy, fields[field], closed(whole.slice(0, at), whole.slice(cursor)));
    }
  }
  return copy;
}

function closed(before, after) {
  const gap = /\s*$/.exec(before)[0];
  if (before.trim() === "") return after.trimStart();
  return gap ? before + after.trimStart() : before + after;
}

function textAt(asked, path) {
  return path.reduce((value, name) => value[name], asked);
}

function setText(asked, path, text) {
  const last = path.at(-1);
  path.slice(0, -1).reduce((value, name) => value[name], asked)[last] = text;
}

/** The words of both texts, each marked `same`, `old` or `new`; by their longest common subsequence. */
export function difference(before, after) {
  const [a, b] = [before, after].map((text) => text.match(/\s*\S+/g) ?? []);
  if (a.length * b.length > 4e6) return [{ kind: "old", text: before }, { kind: "new", text: after }];
  const rows = Array.from({ length: a.length + 1 }, () => new Uint32Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      rows[i][j] = a[i] === b[j] ? rows[i + 1][j + 1] + 1 : Math.max(rows[i + 1][j], rows[i][j + 1]);
    }
  }
  const found = [];
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) found.push({ kind: "same", text: (j += 1, a[i++]) });
    else if (i < a.length && (j === b.length || rows[i + 1][j] >= rows[i][j + 1])) found.push({ kind: "old", text: a[i++] });
    else found.push({ kind: "new", text: b[j++] });
  }
  return found;
}
