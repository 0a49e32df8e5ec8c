// The panels of a comparison page: a unit that is pointed at or held is marked in all of them, and they scroll together.

import { still } from "./linked.js";

function linkAll(scope, key) {
  for (const data of scope.querySelectorAll(`script[data-attr="${key}"]`)) {
    const root = data.closest(".llm-attr:not(.live)");
    if (root) link(root);
  }
}

function link(root) {
  const handle = still(root);
  let held = null;
  const unitAt = (element) => element.closest("[data-unit]")?.dataset.unit ?? null;
  root.classList.add("live");
  root.addEventListener("pointerover", ({ target }) => handle.hold(unitAt(target) ?? held));
  root.addEventListener("pointerleave", () => handle.hold(held));
  root.addEventListener("click", ({ target }) => {
    const unit = unitAt(target);
    if (unit === null || !getSelection().isCollapsed) return;
    held = held === unit ? null : unit;
    handle.hold(held);
    if (held === null) return;
    for (const flow of root.querySelectorAll(".panel .flow")) reveal(flow, flow.querySelector(`[data-unit="${unit}"]`));
  });
  scrollTogether([...root.querySelectorAll(".panel .flow")]);
}

/** Scrolls a panel, and only the panel, to an element in it. */
function reveal(flow, element) {
  const [outer, inner] = [flow, element].map((it) => it.getBoundingClientRect());
  if (inner.top < outer.top || inner.bottom > outer.bottom) flow.scrollTop += inner.top - outer.top - outer.height / 3;
}

/** Each panel follows the one that is scrolled, by the share of its height. */
function scrollTogether(flows) {
  const moved = new WeakSet();
  for (const flow of flows) {
    flow.addEventListener("scroll", () => {
      if (moved.delete(flow)) return;
      const share = flow.scrollTop / Math.max(flow.scrollHeight - flow.clientHeight, 1);
      for (const other of flows) {
        const top = Math.round(share * (other.scrollHeight - other.clientHeight));
        if (other === flow || Math.abs(other.scrollTop - top) < 1) continue;
        moved.add(other);
        other.scrollTop = top;
      }
    });
  }
}
