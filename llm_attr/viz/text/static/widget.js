// Follows attr.js in the module of a notebook's widget. The model holds
//   _drawn    {markup: the panels, each an element with the class llm-attr;
//             numbers: for each panel the data of `mount`, or null where there is nothing to choose}
//   selected  {tokens: [first, stop] or null, unit: position or null, panel: position}
// and every view of it shows the same: what is chosen here goes to the model, and what the model says is shown. Tokens
// are shown in all panels with the same answer, a unit in all that have the same text at its place.

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
    const texts = (selector) => [...root.querySelectorAll(selector)].map((element) => element.textContent);
    const data = numbers[place];
    return {
      root,
      handle: data ? mount(root, data) : still(root),
      alone: data && !data.additive,
      units: texts(".flow [data-unit]"),
      answer: JSON.stringify(texts(".tokens [data-token] b")),
    };
  });
  follow(view);
}

/** The handle of a panel with nothing to choose, which shows the unit that is held in another. */
function still(root) {
  return {
    select() {},
    hold(unit) {
      for (const it of root.querySelectorAll("[data-unit]")) it.classList.toggle("shown", it.dataset.unit === `${unit}`);
    },
    destroy() {},
  };
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

/** What of a selection in one panel there is in another. */
function common({ tokens, unit }, from, to) {
  const both = from.answer === to.answer && !(to.alone && tokens && tokens[1] - tokens[0] > 1);
  return { tokens: both ? tokens : null, unit: unit !== null && from.units[unit] === to.units[unit] ? unit : null };
}

function report({ model, panels, following }, event, name) {
  const place = panels.findIndex(({ root }) => root === event.target);
  if (following || place < 0) return;
  const before = model.get("selected");
  const kept = common(before, panels[before.panel], panels[place]);
  model.set("selected", { ...kept, [name]: event.detail, panel: place });
  model.save_changes();
}
