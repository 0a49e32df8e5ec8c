// Pointing at units of the prompt: the output shows which of its tokens a unit raised or lowered.

import { formatNumber } from "./numbers.js";
import { paintList, shade, unshade, updateStatus } from "./paint.js";
import { choose, isPress, rove, stepped } from "./tokens.js";

export function listenToUnits(page, signal) {
  const on = (type, listener) => page.root.addEventListener(type, listener, { signal });
  for (const type of ["pointerover", "focusin"]) on(type, ({ target }) => show(page, unitAt(target) ?? page.held));
  for (const type of ["pointerleave", "focusout"]) on(type, () => show(page, page.held));
  on("keydown", (event) => unitKey(page, event));
  on("keydown", (event) => escape(page, event));
  on("click", (event) => click(page, event.target));
  page.more?.addEventListener("toggle", () => paintList(page), { signal });
}

function click(page, element) {
  const link = element.closest("[data-jump]");
  const part = element.closest("[data-tokens]");
  const unit = unitAt(element);
  if (link) goTo(page, Number(link.dataset.jump), true);
  else if (part) chooseRange(page, ...part.dataset.tokens.split(",").map(Number));
  else if (unit !== null && getSelection().isCollapsed) goTo(page, unit, page.held !== unit);
}

function chooseRange(page, first, stop) {
  choose(page, first, stop - 1);
  rove(page.tokens, first);
}

function unitAt(element) {
  const owner = element.closest("[data-unit]");
  return owner && Number(owner.dataset.unit);
}

/** Holds or releases a unit and goes to its place in the prompt. */
function goTo(page, unit, held) {
  hold(page, held ? unit : null);
  rove(page.units, unit);
  show(page, unit);
}

function unitKey(page, event) {
  if (event.target.matches("b[data-jump]") && isPress(event)) {
    event.preventDefault();
    click(page, event.target);
    return;
  }
  const from = page.units.indexOf(event.target);
  const to = from < 0 || isPress(event) ? from : stepped(event, from, page.units.length, event.target);
  if (from < 0 || to === null) return;
  event.preventDefault();
  if (isPress(event)) goTo(page, from, page.held !== from);
  else rove(page.units, to);
}

function escape(page, event) {
  if (event.key !== "Escape" || (!page.selected && page.shown === null)) return;
  event.stopPropagation();
  hold(page, null);
  choose(page, null);
}

export function hold(page, unit) {
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
export function show(page, unit) {
  if (page.shown === unit) return;
  if (page.shown !== null) mark(page, page.shown, false);
  if (unit !== null) mark(page, unit, true);
  page.shown = unit;
  page.tokens.forEach((token, position) => {
    const small = token.lastElementChild;
    unshade(token);
    small.textContent = small.dataset.text;
    if (unit === null) return;
    shade(token, page.rows[position][unit], page.limit);
    small.textContent = formatNumber(page.rows[position][unit], page.limit);
  });
  page.output.classList.toggle("tinted", unit !== null);
  updateStatus(page);
}

function mark(page, unit, shown) {
  for (const element of [page.units[unit], page.items[unit]]) element?.classList.toggle("shown", shown);
  page.units[unit].title = `unit ${unit + 1}: ${formatNumber(page.values[unit], page.end)}`;
}
