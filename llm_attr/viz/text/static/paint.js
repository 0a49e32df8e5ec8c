// Painting: the colours, numbers and order that follow from the values on show. Colours belong to the style sheet: an
// element only gets the class of its sign and its share of the limit (--v).

import { extent, formatNumber, ranked, reach, total, valuesOf } from "./numbers.js";

const SIGNS = ["pos", "neg", "zero", "none"];
const FAINT = 0.01; // a token that no unit moved by this share of the scale hardly depends on the prompt
const QUOTED = 48;
const HINT = "The whole answer. Click a token or drag over several to see what carried them.";
const HINT_ONE = "The whole answer. Click a token to see what carried it.";
const ALONE = " One at a time: probabilities of tokens do not add up.";

export function paint(page) {
  page.values = valuesOf(page);
  page.end = page.selected && page.own ? extent(page.values) : page.limit;
  page.order = ranked(page.values);
  page.units.forEach((unit, position) => shade(unit, page.values[position], page.end));
  paintBarcode(page);
  paintTotals(page);
  paintLegend(page);
  paintTokens(page);
  paintList(page);
  updateStatus(page);
}

/** Removes the class of the sign, or replaces it by that of the value, with the value's share of the limit. */
export function shade(element, value, limit) {
  const sign = Number.isNaN(value) ? "none" : value > 0 ? "pos" : value < 0 ? "neg" : "zero";
  if (!element.classList.contains(sign)) {
    unshade(element);
    element.classList.add(sign);
  }
  element.style.setProperty("--v", limit && sign !== "none" ? Math.min(Math.abs(value) / limit, 1).toFixed(4) : 0);
}

export function unshade(element) {
  element.classList.remove(...SIGNS);
}

/** Each stripe takes the colour of the strongest of the units that share it. */
function paintBarcode({ stripes, values, end }) {
  const edge = (place) => Math.floor((place * values.length) / stripes.length);
  stripes.forEach((stripe, place) => {
    const first = edge(place);
    const unit = first + ranked(values.subarray(first, edge(place + 1)))[0];
    stripe.dataset.unit = unit;
    shade(stripe, values[unit], end);
  });
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

function paintTokens({ root, tokens, table, selected, button, ownScale, own }) {
  const isChosen = (place) => selected !== null && selected[0] <= place && place < selected[1];
  tokens.forEach((token, place) => token.setAttribute("aria-selected", isChosen(place)));
  table.forEach((row, place) => row.classList.toggle("chosen", isChosen(place)));
  root.classList.toggle("selected", selected !== null);
  button.hidden = ownScale.hidden = !selected;
  ownScale.setAttribute("aria-pressed", own);
}

// ---- the list of units

/** Sorts the list by value; folded rows follow when they are unfolded. */
export function paintList(page) {
  const [shown, folded] = page.lists;
  if (!shown) return;
  const [low, high] = page.selected ? reach(page.values, page.end) : page.reach;
  page.listed.style.setProperty("--low", low);
  page.listed.style.setProperty("--high", high);
  fill(page, shown, page.order.slice(0, page.count));
  if (folded && (page.more.open || page.written)) fill(page, folded, page.order.slice(page.count), page.more.open);
}

function fill(page, list, units, visible = true) {
  const items = units.map((unit) => itemOf(page, unit));
  if (list.childElementCount !== items.length || items.some((item, place) => list.children[place] !== item)) {
    list.replaceChildren(...items);
  }
  if (!visible) return;
  for (const item of items) {
    const [number, bar] = item.children;
    number.textContent = formatNumber(page.values[item.dataset.unit], page.end);
    shade(bar.firstElementChild, page.values[item.dataset.unit], page.end);
  }
}

/** The row of a unit; what the page was written without is made from the unit's text. */
function itemOf(page, unit) {
  if (page.items[unit]) return page.items[unit];
  const item = page.pattern.cloneNode(true);
  item.dataset.unit = unit;
  item.classList.remove("shown");
  item.querySelector(".error")?.remove();
  item.querySelector(".place").textContent = unit + 1;
  item.querySelector(".place").title = `unit ${unit + 1} of the prompt`;
  item.querySelector(".text").textContent = textOf(page, unit, 160);
  return (page.items[unit] = item);
}

export function textOf({ units }, unit, longest = QUOTED) {
  const name = `[${units[unit].closest(".group")?.querySelector(".rubric b")?.textContent}]`;
  const own = units[unit].textContent.trim();
  const text = (own.startsWith(name) ? own.slice(name.length).trim() : own).replaceAll("\n", "↵") || "(white space)";
  return text.length > longest ? `${text.slice(0, longest - 1).trimEnd()}…` : text;
}

// ---- the line below the output

/** The selection and its strongest unit, or the effect of the unit pointed at. */
export function updateStatus(page) {
  const about = page.shown === null ? aboutTokens(page) : { text: aboutUnit(page, page.shown) };
  page.message.textContent = about.text;
  page.most.hidden = about.unit === undefined;
  if (about.unit === undefined) return;
  page.most.dataset.jump = about.unit;
  page.most.textContent = `${formatNumber(page.values[about.unit], page.end)} ${textOf(page, about.unit)}`;
}

function aboutTokens(page) {
  const { values, end, tokens, needs, limit } = page;
  if (!page.selected) return { text: page.additive ? HINT : HINT_ONE + ALONE };
  const [first, stop] = page.selected;
  const place = stop - first > 1 ? `Tokens ${first + 1}–${stop}` : `Token ${stop}`;
  const chance = stop - first > 1 ? "" : tokens[first].title && ` (${tokens[first].title})`;
  const opening = `${place} of ${tokens.length}${chance}`;
  if (extent(needs.slice(first, stop)) < FAINT * limit) {
    return { text: `${opening}: hardly depends on the prompt.${page.additive ? "" : ALONE}`, unit: page.order[0] };
  }
  const sum = page.additive ? `units sum to ${formatNumber(total(values), end)}, ` : "";
  return { text: `${opening}: ${sum}most by${page.additive ? "" : ALONE}`, unit: page.order[0] };
}

function aboutUnit({ rows, tokens, limit }, unit) {
  const most = (word, sign) => {
    const value = (place) => (place < 0 ? 0 : rows[place][unit] * sign);
    const best = rows.reduce((best, _, place) => (value(place) > value(best) ? place : best), -1);
    if (best < 0) return [];
    const text = lineOf(tokens[best]).slice(0, 40);
    return [`${word} ${text} most (${formatNumber(rows[best][unit], limit)})`];
  };
  return `Unit ${unit + 1} ${[...most("raised", 1), ...most("lowered", -1)].join(" and ") || "changed no token"}.`;
}

/** The token as one line, white space visible. */
export function lineOf(token) {
  return token.dataset.line ?? token.firstElementChild.textContent;
}
