// Panels side by side: what of a selection in one there is in another.

/** What the text of a panel is made of; both are compared between panels. */
export function contents(root) {
  const texts = (selector) => [...root.querySelectorAll(selector)].map((element) => element.textContent);
  return { units: texts(".flow [data-unit]"), answer: JSON.stringify(texts(".tokens [data-token] b")) };
}

/** The handle of a panel with nothing to choose, which shows the unit that is held in another. */
export function still(root) {
  return {
    select() {},
    hold(unit) {
      for (const it of root.querySelectorAll("[data-unit]")) it.classList.toggle("shown", it.dataset.unit === `${unit}`);
    },
    destroy() {},
  };
}

export function common({ tokens, unit }, from, to) {
  const both = from.answer === to.answer && !(to.alone && tokens && tokens[1] - tokens[0] > 1);
  return { tokens: both ? tokens : null, unit: unit !== null && from.units[unit] === to.units[unit] ? unit : null };
}
