// The module of a notebook's widget. The model holds
//   _drawn    {markup: the panels, each an element with the class llm-attr;
//             numbers: for each panel the data of `mount`, or null where there is nothing to choose}
//   selected  {tokens: [first, stop] or null, unit: position or null, panel: position}
// and every view of it shows the same: what is chosen here goes to the model, and what the model says is shown. Tokens
// are shown in all panels with the same answer, a unit in all that have the same text at its place.

import { mount } from "./attr.js";
import { common, contents, still } from "./linked.js";

export default { render };

function render({ model, el }) {
  const listening = new AbortController();
  const view = { model, el, panels: [], following: false };
  const rebuild = () => build(view);
  const obey = () => follow(view);
  model.on("change:_drawn", rebuild);
  model.on("change:selected", obey);
  for (const [type, name] of [["attr-select", "tokens"], ["attr-hold", "unit"]]) {
    el.addEventListener(type, (event) => report(view, event, name), { signal: listening.signal });
  }
  build(view);
  return () => {
    model.off("change:_drawn", rebuild);
    model.off("change:selected", obey);
    listening.abort();
    view.panels.forEach(({ handle }) => handle.destroy());
  };
}

function build(view) {
  view.panels.forEach(({ handle }) => handle.destroy());
  const { markup, numbers } = view.model.get("_drawn");
  view.el.innerHTML = markup;
  view.panels = [...view.el.querySelectorAll(".llm-attr")].map((root, place) => {
    const data = numbers[place];
    const handle = data ? mount(root, data) : still(root);
    return { root, handle, alone: data && !data.additive, ...contents(root) };
  });
  follow(view);
}

/** Shows the model's selection in every panel that it means something to. */
function follow(view) {
  const chosen = view.model.get("selected");
  view.following = true;
  for (const panel of view.panels) {
    const { tokens, unit } = common(chosen, view.panels[chosen.panel], panel);
    panel.handle.select(...(tokens ?? []));
    panel.handle.hold(unit);
  }
  view.following = false;
}

function report({ model, panels, following }, event, name) {
  const place = panels.findIndex(({ root }) => root === event.target);
  if (following || place < 0) return;
  const before = model.get("selected");
  const kept = common(before, panels[before.panel], panels[place]);
  model.set("selected", { ...kept, [name]: event.detail, panel: place });
  model.save_changes();
}
