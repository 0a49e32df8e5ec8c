// Makes the HTML view of a text attribution interactive: select output tokens to colour the prompt by their sum; point
// at a unit of the prompt to see which output tokens it raised or lowered.
//
// const handle = mount(root, data)
//   root    the element around the markup of templates/explanation.html
//   data    what llm_attr.viz.text.script.numbers wrote
//   handle  .select(first, stop)  tokens first..stop-1; without arguments the full answer
//           .selected             [first, stop], or null for the full answer
//           .hold(unit)           marks a unit, as a click on it does; without an argument releases it
//           .update(data)         shows other numbers for the same units and tokens; keeps selection, unit and focus
//           .destroy()            restores the markup
//   Every new selection dispatches a bubbling "attr-select" on root, with [first, stop] or null as its detail; holding
//   or releasing a unit an "attr-hold", with the unit or null.
// static/page.js mounts it on a page, static/widget.js in a notebook.

import { formatNumber, reach, read } from "./numbers.js";
import { lineOf, paint, updateStatus } from "./paint.js";
import { listenToTokens, select } from "./tokens.js";
import { hold, listenToUnits, show } from "./units.js";

const ADDED = ["role", "tabindex", "aria-label", "aria-multiselectable", "aria-selected", "aria-pressed"];

export function mount(root, data) {
  const start = { anchor: 0, head: 0, selected: null, drag: null, held: null, shown: null, own: false };
  const page = { ...parts(root), ...read(data), ...start };
  const listening = new AbortController();
  if (page.rows.length) {
    furnish(page);
    listenToTokens(page, listening.signal);
    listenToUnits(page, listening.signal);
    listenToModes(page, listening.signal);
  }
  return {
    select: (first, stop) => select(page, first, stop),
    get selected() { return page.selected && [...page.selected]; },
    hold: (unit = null) => hold(page, unit),
    update: (other) => update(page, other),
    destroy() {
      listening.abort();
      if (page.rows.length) strip(page);
    },
  };
}

function parts(root) {
  const all = (selector) => [...root.querySelectorAll(selector)];
  const one = (selector) => root.querySelector(selector);
  const items = [];
  for (const item of all(".ranking li")) items[item.dataset.unit] = item;
  const lists = all(".ranking ol");
  const listed = one(".ranking .card");
  return {
    root,
    units: all(".flow [data-unit]"),
    totals: all(".flow .total"),
    stripes: all(".barcode i"),
    tokens: all(".tokens [data-token]"),
    links: all("b[data-jump]"),
    items,
    lists,
    listed,
    pattern: one(".ranking li")?.cloneNode(true),
    count: lists[0]?.childElementCount ?? 0,
    written: lists.length > 1 && lists[1].childElementCount > 0,
    reach: ["--low", "--high"].map((name) => listed?.style.getPropertyValue(name)),
    more: one(".ranking details"),
    box: one(".tokens"),
    table: all("section.table tbody tr"),
    legend: one(".prompt .legend"),
    output: one(".output"),
    status: one(".status"),
    message: one(".status [role=status]"),
    button: one(".status .all"),
    ownScale: one(".status .own"),
    most: one(".status .most"),
    asTokens: one(".as-tokens"),
    copy: one(".copy"),
  };
}

function update(page, other) {
  const { additive, ...numbers } = read(other);
  Object.assign(page, numbers, { reach: reach(numbers.whole, numbers.limit) });
  const shown = page.shown;
  show(page, null);
  paint(page);
  show(page, shown);
}

// ---- the output as running text or as separate tokens, and copying it

function listenToModes(page, signal) {
  page.asTokens.addEventListener("click", () => separate(page, !page.box.classList.contains("apart")), { signal });
  page.copy.addEventListener("click", () => copyAnswer(page), { signal });
}

function separate(page, apart) {
  page.box.classList.toggle("apart", apart);
  page.asTokens.setAttribute("aria-pressed", apart);
  page.tokens.forEach((token, place) => (token.firstElementChild.textContent = apart ? lineOf(token) : page.texts[place]));
}

async function copyAnswer({ copy, texts, status, message }) {
  try {
    await navigator.clipboard.writeText(texts.join(""));
    copy.textContent = "copied";
  } catch {
    message.textContent = "The browser does not let this page copy; select the text instead.";
    status.hidden = false;
  }
}

// ---- what is added to the markup, and removed by destroy()

function furnish(page) {
  const { root, tokens, units, links } = page;
  page.values = page.whole;
  page.end = page.limit;
  page.texts = tokens.map((token) => token.firstElementChild.textContent);
  root.classList.add("live");
  root.style.setProperty("--widest", `${formatNumber(-page.limit, page.limit).length}ch`);
  dress(page.box, { role: "listbox", "aria-label": "Tokens of the output", "aria-multiselectable": page.additive });
  tokens.forEach((token, place) => {
    dress(token, { role: "option", "aria-selected": "false", tabindex: place ? -1 : 0 });
    token.lastElementChild.dataset.text = token.lastElementChild.textContent;
  });
  units.forEach((unit, place) => dress(unit, { role: "button", "aria-pressed": "false", tabindex: place ? -1 : 0 }));
  for (const link of links) dress(link, { role: "button", tabindex: 0 });
  page.status.hidden = page.asTokens.hidden = page.copy.hidden = false;
  updateStatus(page);
}

function dress(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
}

function strip(page) {
  const { root, box, tokens, units, links } = page;
  page.selected = page.held = null;
  page.own = false;
  paint(page);
  show(page, null);
  separate(page, false);
  page.status.hidden = page.asTokens.hidden = page.copy.hidden = true;
  root.classList.remove("live", "touched", "selected");
  root.style.removeProperty("--widest");
  for (const element of [box, ...tokens, ...units, ...links]) for (const name of ADDED) element.removeAttribute(name);
}
