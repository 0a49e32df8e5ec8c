// The explanations on show: one, or two side by side with what is chosen in one shown in the other.

import { mount } from "../viz/attr.js";
import { common, contents, still } from "../viz/linked.js";

export function stage(root, chosen) {
  const page = { root, panels: [], following: false };
  for (const [type, name] of [["attr-select", "tokens"], ["attr-hold", "unit"]]) {
    root.addEventListener(type, ({ target, detail }) => {
      const from = page.panels.find((panel) => panel.element === target);
      if (!from || page.following) return;
      from[name] = detail;
      follow(page, from);
      chosen(from);
    });
  }
  return {
    show(results) {
      page.panels.forEach(({ handle }) => handle.destroy());
      page.panels = results.map(panelOf);
      root.classList.toggle("app-two", results.length > 1);
      root.replaceChildren(...page.panels.map(({ element }) => element));
      page.panels.forEach((panel) => {
        panel.handle = panel.result.numbers ? mount(panel.element, panel.result.numbers) : still(panel.element);
        Object.assign(panel, contents(panel.element), { alone: panel.result.numbers && !panel.result.numbers.additive });
      });
    },
    choose({ tokens, unit }) {
      const panel = page.panels.at(-1);
      if (!panel) return;
      const { input_tokens, output_tokens } = panel.result.document;
      if (tokens && tokens[1] <= output_tokens.length) panel.handle.select(...tokens);
      if (unit !== null && unit < input_tokens.length) panel.handle.hold(unit);
    },
    whole: () => page.panels.forEach(({ handle }) => handle.select()),
  };
}

function follow(page, from) {
  page.following = true;
  for (const panel of page.panels) {
    if (panel === from) continue;
    const { tokens, unit } = common({ tokens: from.tokens, unit: from.unit }, from, panel);
    panel.handle.select(...(tokens ?? []));
    panel.handle.hold(unit);
  }
  page.following = false;
}

function panelOf(result) {
  const parsed = new DOMParser().parseFromString(styleless(result.markup), "text/html");
  const element = document.importNode(parsed.body.firstElementChild, true);
  for (const styled of element.querySelectorAll("[data-style]")) dress(styled);
  return { element, result, tokens: null, unit: null };
}

/** Style attributes are set by script, since the page allows none in markup. Texts hold no bare quotation mark. */
const styleless = (markup) => markup.replaceAll(' style="', ' data-style="');

function dress(element) {
  for (const rule of element.dataset.style.split(";")) {
    const colon = rule.indexOf(":");
    if (colon > 0) element.style.setProperty(rule.slice(0, colon).trim(), rule.slice(colon + 1).trim());
  }
  delete element.dataset.style;
}
