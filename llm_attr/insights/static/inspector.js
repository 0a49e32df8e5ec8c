// What is held: the value of a unit, what it means, and what it did to each token of the answer.

import { button, element } from "./text.js";

export function inspect(root, { document: result, asked }, unit, drop) {
  root.hidden = unit === null;
  if (unit === null) return root.replaceChildren();
  const value = result.seq_attr[unit];
  const error = result.stderr?.[unit];
  const number = element("p", { className: "app-number", textContent: `${signed(value)}${error ? ` ± ${error.toPrecision(2)}` : ""}` });
  const parts = [
    element("h2", { textContent: `Unit ${unit + 1} of ${result.input_tokens.length}` }),
    element("blockquote", { textContent: result.input_tokens[unit], dir: "auto" }),
    number,
  ];
  const meaning = meaningOf(result, value);
  if (meaning) parts.push(element("p", { textContent: meaning }));
  if (result.token_attr) parts.push(element("h3", { textContent: "Each token of the answer" }), bars(result.token_attr.map((row) => row[unit]), result.output_tokens));
  if (asked) parts.push(button("Answer again without it", drop));
  root.replaceChildren(...parts);
}

export const signed = (value) => (value == null ? "not a number" : `${value < 0 ? "−" : "+"}${Math.abs(value).toPrecision(3)}`);

/** In words, where the value is what the log-probability loses when the unit alone is left out. */
export function meaningOf(result, value) {
  const about = result.provenance ?? {};
  if (value == null || about.method !== "feature_ablation" || (about.attr_target ?? "log_prob") !== "log_prob" || about.foil) return "";
  const size = Math.abs(value);
  const times = size < 7 ? Math.exp(size).toPrecision(2) : `e^${size.toFixed(1)}`;
  return `Without it the answer is ${times} times ${value < 0 ? "more" : "less"} likely.`;
}

function bars(values, tokens) {
  const largest = Math.max(...values.map((value) => Math.abs(value ?? 0)), 1e-12);
  const chart = element("div", { className: "app-bars", "aria-label": "Values for each token of the answer" });
  chart.setAttribute("role", "img");
  values.forEach((value, place) => {
    const bar = element("i", { className: value < 0 ? "neg" : "pos", title: `${tokens[place]}: ${signed(value)}` });
    bar.style.setProperty("--h", Math.abs(value ?? 0) / largest);
    chart.append(bar);
  });
  return chart;
}
