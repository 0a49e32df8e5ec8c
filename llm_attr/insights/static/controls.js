// How it is explained, as one sentence whose words are chosen, and what that will cost.

import { element } from "./text.js";

const SCALARS = { log_prob: "log-probability", prob: "probability", logit: "logit", entropy: "entropy", margin: "margin" };
const ABSENCES = { delete: "deleted", replace: "replaced", mask: "masked" };
const BUDGETS = { "": "as long as the method takes", "10 s": "within 10 s", "60 s": "within 60 s" };

export function controls(root, about, changed) {
  const units = Object.fromEntries(about.units.map((unit) => [unit, `${unit}s`]));
  const methods = Object.fromEntries(Object.keys(about.methods).map((name) => [name, name.replaceAll("_", " ")]));
  const chosen = {
    scalar: choice("Quantity", SCALARS, "log_prob"),
    unit: choice("Unit", units, "sentence"),
    method: choice("Method", methods, "feature_ablation"),
    absence: choice("Absence", ABSENCES, "delete"),
    budget: choice("Time", BUDGETS, ""),
  };
  root.replaceChildren("Explain the ", chosen.scalar, " of the answer by ", chosen.unit, ", with ", chosen.method, "; what is absent is ", chosen.absence, "; ", chosen.budget, ".");
  root.addEventListener("change", changed);
  return {
    value: () => ({
      scalar: chosen.scalar.value, unit: chosen.unit.value, method: chosen.method.value, absence: chosen.absence.value,
      options: chosen.budget.value ? { budget: chosen.budget.value } : {},
    }),
    show(asked) {
      for (const name of ["scalar", "unit", "method", "absence"]) if (asked[name]) chosen[name].value = asked[name];
      chosen.budget.value = asked.options?.budget ?? "";
    },
    is: () => chosen.budget.value !== "",
  };
}

function choice(label, words, value) {
  const select = element("select", { "aria-label": label });
  for (const [name, text] of Object.entries(words)) select.append(element("option", { value: name, textContent: text }));
  select.value = value;
  return select;
}

export function priceOf(plan) {
  if (!plan) return "";
  const most = plan.exact ? "" : "at most ";
  const counted = plan.evaluations ? `${plan.evaluations.toLocaleString("en")} variants` : `${plan.backward} backward passes`;
  const time = plan.seconds == null ? "" : ` · ≈ ${plan.seconds < 1 ? "1 s" : plan.seconds < 120 ? `${Math.round(plan.seconds)} s` : `${Math.round(plan.seconds / 60)} min`}`;
  return `${most}${counted} · ${plan.positions.toLocaleString("en")} positions${time}`;
}
