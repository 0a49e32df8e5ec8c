// The answer with a unit and the answer without it, one above the other.

import { difference } from "./edit.js";
import { meaningOf } from "./inspector.js";
import { element } from "./text.js";

export function compareAnswers(root, before, unit, text) {
  const old = before.document.output_text;
  const parts = difference(old, text);
  const side = (title, kinds) => {
    const line = element("p", { dir: "auto" });
    line.append(element("b", { textContent: title }));
    for (const part of parts) if (kinds.includes(part.kind)) line.append(element(part.kind === "same" ? "span" : part.kind === "old" ? "del" : "ins", { textContent: part.text }));
    return line;
  };
  root.dataset.of = before.id;
  root.hidden = false;
  const without = element("p", { dir: "auto" });
  without.append(element("b", { textContent: "Left out " }), element("s", { textContent: before.document.input_tokens[unit] }));
  const same = parts.every(({ kind }) => kind === "same");
  const meaning = meaningOf(before.document, before.document.seq_attr[unit]);
  root.replaceChildren(
    element("h2", { textContent: same ? "The answer stays the same without it" : "Without it the model answers differently" }),
    without, side("With it ", ["same", "old"]), side("Without it ", ["same", "new"]),
    ...(meaning ? [element("p", { className: "app-soft", textContent: meaning.replace("the answer is", "the first answer is") })] : []),
  );
}
