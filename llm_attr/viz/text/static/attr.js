// Makes the HTML view of a text attribution interactive: select output tokens to colour the prompt by their sum; point
// at a unit of the prompt to see which output tokens it raised or lowered.
//
// const handle = mount(root, data)
//   root    the element around the markup of templates/explanation.html
//   data    {additive, limit, unit_values: [units], token_values: [tokens][units], groups: [[first, stop]]}; null is NaN
//   handle  .select(first, stop)  tokens first..stop-1; without arguments the full answer
//           .selected             [first, stop], or null for the full answer
//           .hold(unit)           marks a unit, as a click on it does; without an argument releases it
//           .destroy()            restores the markup
//   Every new selection dispatches a bubbling "attr-select" on root, with [first, stop] or null as its detail; holding
//   or releasing a unit an "attr-hold", with the unit or null.
// static/page.js mounts it on a page, static/widget.js in a notebook.
// Colours belong to the style sheet: an element only gets the class of its sign and its share of the limit (--v).

const SIGNS = ["pos", "neg", "zero", "none"];
const ADDED = ["role", "tabindex", "aria-label", "aria-multiselectable", "aria-selected", "aria-pressed"];
const HINT = "The whole answer. Click a token or drag over several to see what carried them.";
const HINT_ONE = "The whole answer. Click a token to see what carried it.";
const ALONE = " One at a time: probabilities of tokens do not add up.";

export function mount(root, data) {
  const start = { anchor: 0, head: 0, selected: null, drag: null, held: null, shown: null };
  const page = { ...parts(root), ...read(data), ...start };
  const listening = new AbortController();
  if (page.rows.length) {
    furnish(page);
    listenToTokens(page, listening.signal);
    listenToUnits(page, listening.signal);
  }
  return {
    select: (first, stop) => select(page, first, stop),
    get selected() { return page.selected && [...page.selected]; },
    hold: (unit = null) => hold(page, unit),
    destroy() {
      listening.abort();
      if (page.rows.length) strip(page);
    },
  };
}

// ---- elements and numbers

function parts(root) {
  const all = (selector) => [...root.querySelectorAll(selector)];
  const items = [];
  for (const item of all(".ranking li")) items[item.dataset.unit] = item;
  return {
    root,
    units: all(".flow [data-unit]"),
    totals: all(".flow .total"),
    tokens: all(".tokens [data-token]"),
    items,
    lists: all(".ranking ol"),
    more: root.querySelector(".ranking details"),
    box: root.querySelector(".tokens"),
    table: all("section.table tbody tr"),
    legend: root.querySelector(".prompt .legend"),
    output: root.querySelector(".output"),
    status: root.querySelector(".status"),
    message: root.querySelector(".status span"),
    button: root.querySelector(".status button"),
  };
}

function read({ additive, limit, unit_values, token_values, groups }) {
  const numbers = (values) => Float64Array.from(values, (value) => (value === null ? NaN : Number(value)));
  const rows = (token_values ?? []).map(numbers);
  const ends = { wholeEnd: limit, limit: extent(rows.map(extent)) };
  return { additive, whole: numbers(unit_values), rows, groups: groups ?? [], ...ends };
}

/** The largest finite |value|. */
function extent(values) {
  let largest = 0;
  for (const value of values) if (Number.isFinite(value) && Math.abs(value) > largest) largest = Math.abs(value);
  return largest;
}

/** The units' values for the selected tokens: their sum, or the values for the full answer. */
function valuesOf({ whole, rows, selected }) {
  if (!selected) return whole;
  const sums = new Float64Array(whole.length);
  for (const row of rows.slice(...selected)) row.forEach((value, unit) => (sums[unit] += value));
  return sums;
}

/** The positions by descending |value|; ties in reading order, NaN last. */
function ranked(values) {
  const size = values.map((value) => (Number.isNaN(value) ? -1 : Math.abs(value)));
  return [...values.keys()].sort((a, b) => size[b] - size[a] || a - b);
}

function total(values, first = 0, stop = values.length) {
  return values.subarray(first, stop).reduce((sum, value) => sum + value, 0);
}

/** The number as the page formats it: with its sign, to three digits of the largest value shown. */
function formatNumber(value, limit) {
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

// ---- selecting tokens

function select(page, first, stop) {
  if (first === undefined || first === null) return choose(page, null);
  if (![first, stop].every(Number.isInteger) || !(0 <= first && first < stop && stop <= page.rows.length)) {
    throw new RangeError(`select takes 0 <= first < stop <= ${page.rows.length}; given ${first} and ${stop}`);
  }
  choose(page, first, stop - 1);
}

/** Selects from the anchor to the head, in either order; null selects the full answer. */
function choose(page, anchor, head = anchor) {
  if (anchor !== null && !page.additive) anchor = head;
  const selected = anchor === null ? null : [Math.min(anchor, head), Math.max(anchor, head) + 1];
  if (anchor !== null) [page.anchor, page.head] = [anchor, head];
  if (String(selected) === String(page.selected)) return;
  page.selected = selected;
  paint(page);
  page.root.dispatchEvent(new CustomEvent("attr-select", { bubbles: true, detail: selected && [...selected] }));
}

function listenToTokens(page, signal) {
  const on = (element, type, listener) => element.addEventListener(type, (event) => listener(page, event), { signal });
  on(page.box, "pointerdown", startDrag);
  on(page.box, "pointermove", drag);
  on(page.box, "pointerup", () => (page.drag = null));
  on(page.box, "pointercancel", cancelDrag);
  on(page.box, "keydown", tokenKey);
  on(page.button, "click", () => choose(page, null));
  on(page.root, "keydown", escape);
}

function startDrag(page, event) {
  const position = tokenAt(page, event.target);
  if (position === null || event.button !== 0) return;
  event.preventDefault();
  page.box.setPointerCapture(event.pointerId);
  page.drag = { selected: page.selected, anchor: page.anchor, head: page.head };
  choose(page, event.shiftKey && page.selected ? page.anchor : position, position);
  rove(page.tokens, position);
}

function drag(page, { clientX, clientY }) {
  if (!page.drag) return;
  const position = tokenAt(page, page.box.getRootNode().elementFromPoint(clientX, clientY));
  if (position === null || position === page.head) return;
  choose(page, page.anchor, position);
  rove(page.tokens, position);
}

/** A touch that turns out to scroll the page selects nothing. */
function cancelDrag(page) {
  const { selected, anchor, head } = page.drag ?? page;
  page.drag = null;
  choose(page, selected && anchor, head);
}

function tokenAt({ box, tokens }, element) {
  const token = element?.closest?.("[data-token]");
  return token && box.contains(token) ? tokens.indexOf(token) : null;
}

function tokenKey(page, event) {
  const from = tokenAt(page, event.target);
  const to = isPress(event) ? from : stepped(event, from, page.tokens.length, page.box);
  if (from === null || to === null) return;
  event.preventDefault();
  choose(page, event.shiftKey ? (page.selected ? page.anchor : from) : to, to);
  rove(page.tokens, to);
}

function isPress({ key }) {
  return key === " " || key === "Enter";
}

/** The position that a key leads to, or null. */
function stepped({ key, ctrlKey, metaKey, altKey }, from, count, box) {
  if (ctrlKey || metaKey || altKey || from === null) return null;
  const onward = getComputedStyle(box).direction === "rtl" ? "ArrowLeft" : "ArrowRight";
  if (key === "Home") return 0;
  if (key === "End") return count - 1;
  if (!key.startsWith("Arrow")) return null;
  const step = key === onward || key === "ArrowDown" ? 1 : -1;
  return Math.min(Math.max(from + step, 0), count - 1);
}

/** Makes an element the only one in the tab order and focuses it. */
function rove(elements, position) {
  for (const other of elements) if (other.tabIndex === 0) other.tabIndex = -1;
  elements[position].tabIndex = 0;
  elements[position].focus();
}

function escape(page, event) {
  if (event.key !== "Escape" || (!page.selected && page.shown === null)) return;
  event.stopPropagation();
  hold(page, null);
  choose(page, null);
}

// ---- pointing at units

function listenToUnits(page, signal) {
  const on = (type, listener) => page.root.addEventListener(type, listener, { signal });
  for (const type of ["pointerover", "focusin"]) on(type, ({ target }) => show(page, unitAt(target) ?? page.held));
  for (const type of ["pointerleave", "focusout"]) on(type, () => show(page, page.held));
  on("keydown", (event) => unitKey(page, event));
  on("click", (event) => {
    const unit = unitAt(event.target);
    if (unit !== null && getSelection().isCollapsed) goTo(page, unit);
  });
  page.more?.addEventListener("toggle", () => paintItems(page), { signal });
}

function unitAt(element) {
  const owner = element.closest("[data-unit]");
  return owner && Number(owner.dataset.unit);
}

/** A click holds or releases a unit; from the list it also scrolls to its place in the prompt. */
function goTo(page, unit) {
  hold(page, page.held === unit ? null : unit);
  rove(page.units, unit);
  show(page, unit);
}

function unitKey(page, event) {
  const from = page.units.indexOf(event.target);
  const to = from < 0 || isPress(event) ? from : stepped(event, from, page.units.length, event.target);
  if (from < 0 || to === null) return;
  event.preventDefault();
  if (isPress(event)) goTo(page, from);
  else rove(page.units, to);
}

function hold(page, unit) {
  const count = page.rows.length && page.units.length;
  if (unit !== null && !(Number.isInteger(unit) && 0 <= unit && unit < count)) {
    throw new RangeError(`hold takes 0 <= unit < ${count}; given ${unit}`);
  }
  show(page, unit);
  if (unit === page.held) return;
  page.units.forEach((other, place) => other.setAttribute("aria-pressed", place === unit));
  page.held = unit;
  page.root.dispatchEvent(new CustomEvent("attr-hold", { bubbles: true, detail: unit }));
}

/** Tints the output's tokens by the unit's value for each; null removes the tint. */
function show(page, unit) {
  if (page.shown === unit) return;
  if (page.shown !== null) mark(page, page.shown, false);
  if (unit !== null) mark(page, unit, true);
  page.shown = unit;
  page.tokens.forEach((token, position) => {
    const small = token.lastElementChild;
    token.classList.remove(...SIGNS);
    small.textContent = small.dataset.text;
    if (unit === null) return;
    shade(token, page.rows[position][unit], page.limit);
    small.textContent = formatNumber(page.rows[position][unit], page.limit);
  });
  page.output.classList.toggle("tinted", unit !== null);
  updateStatus(page);
}

function mark(page, unit, shown) {
  for (const element of [page.units[unit], page.items[unit]]) element.classList.toggle("shown", shown);
  page.units[unit].title = `unit ${unit + 1}: ${formatNumber(page.values[unit], page.end)}`;
}

// ---- painting

function paint(page) {
  page.values = valuesOf(page);
  page.end = page.selected ? extent(page.values) : page.wholeEnd;
  page.units.forEach((unit, position) => shade(unit, page.values[position], page.end));
  paintTotals(page);
  paintLegend(page);
  paintTokens(page);
  orderItems(page);
  paintItems(page);
  updateStatus(page);
}

function shade(element, value, limit) {
  const sign = Number.isNaN(value) ? "none" : value > 0 ? "pos" : value < 0 ? "neg" : "zero";
  if (!element.classList.contains(sign)) {
    element.classList.remove(...SIGNS);
    element.classList.add(sign);
  }
  element.style.setProperty("--v", limit && sign !== "none" ? Math.min(Math.abs(value) / limit, 1).toFixed(4) : 0);
}

function paintTotals({ groups, totals, values, end }) {
  groups.forEach((group, place) => (totals[place].textContent = formatNumber(total(values, ...group), end)));
}

function paintLegend({ legend, end }) {
  const [low, ramp, high, name] = legend.children;
  for (const element of [low, ramp, high]) element.hidden = !end;
  low.textContent = formatNumber(-end, end);
  high.textContent = formatNumber(end, end);
  name.textContent = legend.dataset.name + (end ? "" : ": no value other than 0");
}

function paintTokens({ tokens, table, selected, button }) {
  const isChosen = (place) => selected !== null && selected[0] <= place && place < selected[1];
  tokens.forEach((token, place) => token.setAttribute("aria-selected", isChosen(place)));
  table.forEach((row, place) => row.classList.toggle("chosen", isChosen(place)));
  button.hidden = !selected;
}

/** Sorts the rows of the list by value, keeping the number of rows in each part. */
function orderItems({ items, lists, values }) {
  const order = ranked(values);
  for (const list of lists) list.replaceChildren(...order.splice(0, list.childElementCount).map((unit) => items[unit]));
}

/** Updates the visible rows; folded ones are updated when they are unfolded. */
function paintItems({ lists, more, values, end }) {
  for (const list of lists) {
    if (more?.contains(list) && !more.open) continue;
    for (const item of list.children) {
      const [number, bar] = item.children;
      number.textContent = formatNumber(values[item.dataset.unit], end);
      shade(bar.firstElementChild, values[item.dataset.unit], end);
    }
  }
}

/** The line below the output: the selection and its strongest unit, or the effect of the unit pointed at. */
function updateStatus(page) {
  page.message.textContent = page.shown === null ? aboutTokens(page) : aboutUnit(page, page.shown);
}

function aboutTokens(page) {
  const { values, end } = page;
  if (!page.selected) return page.additive ? HINT : HINT_ONE + ALONE;
  const [first, stop] = page.selected;
  const [strongest] = ranked(values);
  const place = stop - first > 1 ? `Tokens ${first + 1}–${stop}` : `Token ${stop}`;
  const sum = page.additive ? `units sum to ${formatNumber(total(values), end)}, ` : "";
  const most = `most by unit ${strongest + 1} (${formatNumber(values[strongest], end)}).`;
  return `${place} of ${page.tokens.length}: ${sum}${most}${page.additive ? "" : ALONE}`;
}

function aboutUnit({ rows, tokens, limit }, unit) {
  const most = (word, sign) => {
    const value = (place) => (place < 0 ? 0 : rows[place][unit] * sign);
    const best = rows.reduce((best, _, place) => (value(place) > value(best) ? place : best), -1);
    if (best < 0) return [];
    const text = tokens[best].firstElementChild.textContent.slice(0, 40);
    return [`${word} ${text} most (${formatNumber(rows[best][unit], limit)})`];
  };
  return `Unit ${unit + 1} ${[...most("raised", 1), ...most("lowered", -1)].join(" and ") || "changed no token"}.`;
}

// ---- attributes that are added to the markup, and removed by destroy()

function furnish(page) {
  const { root, tokens, units } = page;
  page.values = page.whole;
  page.end = page.wholeEnd;
  root.classList.add("live");
  root.style.setProperty("--widest", `${formatNumber(-page.limit, page.limit).length}ch`);
  dress(page.box, { role: "listbox", "aria-label": "Tokens of the output", "aria-multiselectable": page.additive });
  tokens.forEach((token, place) => {
    dress(token, { role: "option", "aria-selected": "false", tabindex: place ? -1 : 0 });
    token.lastElementChild.dataset.text = token.lastElementChild.textContent;
  });
  units.forEach((unit, place) => dress(unit, { role: "button", "aria-pressed": "false", tabindex: place ? -1 : 0 }));
  page.status.hidden = false;
  updateStatus(page);
}

function dress(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
}

function strip(page) {
  const { root, box, tokens, units } = page;
  page.selected = page.held = null;
  paint(page);
  show(page, null);
  page.status.hidden = true;
  root.classList.remove("live");
  root.style.removeProperty("--widest");
  for (const element of [box, ...tokens, ...units]) for (const name of ADDED) element.removeAttribute(name);
}
