"""Short items with planted truth: what in the prompt carries the answer is known, and causal for SmolLM2-135M-Instruct.

Each item has eight or more units, a question, an answer and its sources. An `Item` has the fields

* `id`, `kind` (one of `KINDS`), `layout` (`text`, `rows`, `system`, `tools` or `turns`), `question`, `answer`;
* `units`: the texts of the units, in the order of the prompt; `sources`: the positions of those that hold the truth;
* `paraphrased`: whether question and sources share no word besides names;
* `losses`: nats of the answer's log-probability that are lost without each source, and, last, without all of them.

Without its source an item loses at least 2 nats; two hops do so without each of the two, a redundant fact without both.
The items are in the public domain (CC0), see LICENSE beside them.
"""

from llm_attr.data.items import KINDS, LAYOUTS, Item, items

__all__ = ["KINDS", "LAYOUTS", "Item", "items"]
