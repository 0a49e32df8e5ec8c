// Selecting output tokens: by click, drag and keyboard.

import { paint } from "./paint.js";

export function select(page, first, stop) {
  if (first === undefined || first === null) return choose(page, null);
  if (![first, stop].every(Number.isInteger) || !(0 <= first && first < stop && stop <= page.rows.length)) {
    throw new RangeError(`select takes 0 <= first < stop <= ${page.rows.length}; given ${first} and ${stop}`);
  }
  choose(page, first, stop - 1);
}

/** Selects from the anchor to the head, in either order; null selects the full answer. */
export function choose(page, anchor, head = anchor) {
  if (anchor !== null && !page.additive) anchor = head;
  const selected = anchor === null ? null : [Math.min(anchor, head), Math.max(anchor, head) + 1];
  if (anchor !== null) [page.anchor, page.head] = [anchor, head];
  if (String(selected) === String(page.selected)) return;
  page.selected = selected;
  page.root.classList.add("touched");
  paint(page);
  page.root.dispatchEvent(new CustomEvent("attr-select", { bubbles: true, detail: selected && [...selected] }));
}

export function listenToTokens(page, signal) {
  const on = (element, type, listener) => element.addEventListener(type, (event) => listener(page, event), { signal });
  on(page.box, "pointerdown", startDrag);
  on(page.box, "mousedown", (_, event) => tokenAt(page, event.target) !== null && event.preventDefault());
  on(page.box, "pointermove", drag);
  on(page.box, "pointerup", () => (page.drag = null));
  on(page.box, "pointercancel", cancelDrag);
  on(page.box, "keydown", tokenKey);
  on(page.button, "click", () => choose(page, null));
  on(page.ownScale, "click", () => ((page.own = !page.own), paint(page)));
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

export function isPress({ key }) {
  return key === " " || key === "Enter";
}

/** The position that a key leads to, or null. */
export function stepped({ key, ctrlKey, metaKey, altKey }, from, count, box) {
  if (ctrlKey || metaKey || altKey || from === null) return null;
  const onward = getComputedStyle(box).direction === "rtl" ? "ArrowLeft" : "ArrowRight";
  if (key === "Home") return 0;
  if (key === "End") return count - 1;
  if (!key.startsWith("Arrow")) return null;
  const step = key === onward || key === "ArrowDown" ? 1 : -1;
  return Math.min(Math.max(from + step, 0), count - 1);
}

/** Makes an element the only one in the tab order and focuses it. */
export function rove(elements, position) {
  for (const other of elements) if (other.tabIndex === 0) other.tabIndex = -1;
  elements[position].tabIndex = 0;
  elements[position].focus();
}
