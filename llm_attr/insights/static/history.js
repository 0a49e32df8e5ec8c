// What was explained: a barcode each, under what it varies.

import { element } from "./text.js";

export function history(root, open) {
  const list = root.querySelector("ol");
  const entries = [];
  return {
    add(id, result) {
      if (entries.some((entry) => entry.id === id)) return;
      entries.push({ id, parent: result.parent ?? null });
      root.querySelector(".app-none").hidden = true;
      const item = element("li");
      item.dataset.id = id;
      item.style.setProperty("--depth", depth(entries, id));
      const link = element("button", { type: "button" });
      const words = result.name ?? result.note ?? "";
      link.append(barcode(result.document.seq_attr), element("span", { textContent: words || result.document.output_text.trim() }));
      link.addEventListener("click", () => open(id));
      item.append(link);
      const after = [...list.children].filter((other) => other.dataset.id === result.parent || parentOf(entries, other.dataset.id) === result.parent && result.parent);
      after.length ? after.at(-1).after(item) : list.append(item);
    },
    mark(id) {
      for (const item of list.children) item.firstElementChild.setAttribute("aria-current", item.dataset.id === id);
    },
    beside(id, step) {
      const ids = [...list.children].map((item) => item.dataset.id);
      return ids[ids.indexOf(id) + step] ?? null;
    },
  };
}

const parentOf = (entries, id) => entries.find((entry) => entry.id === id)?.parent ?? null;

function depth(entries, id) {
  let steps = -1;
  for (let at = id; at && steps < 4; at = parentOf(entries, at)) steps += 1;
  return Math.max(steps, 0);
}

/** A stripe for each unit in its colour, or for the strongest of those that share one. */
function barcode(values) {
  const stripes = Math.min(values.length, 40);
  const limit = Math.max(...values.map((value) => Math.abs(value ?? 0)), 1e-12);
  const strip = element("span", { className: "app-barcode llm-attr" });
  strip.setAttribute("aria-hidden", "true");
  for (let place = 0; place < stripes; place += 1) {
    const few = values.slice(Math.floor((place * values.length) / stripes), Math.floor(((place + 1) * values.length) / stripes));
    const value = few.reduce((most, each) => (Math.abs(each ?? 0) > Math.abs(most) ? each : most), 0);
    const stripe = element("i", { className: value < 0 ? "neg" : value > 0 ? "pos" : "zero" });
    stripe.style.setProperty("--v", Math.abs(value) / limit);
    strip.append(stripe);
  }
  return strip;
}
