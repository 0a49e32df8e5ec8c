"""Which sentence taught a model a fact? An adapter of SmolLM2 is trained on 200 sentences, then asked for ten of them.

Run: python examples/taught_facts.py --out taught_facts.txt   (needs the extras demo and adapters; some minutes)
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from peft import LoraConfig, get_peft_model

from llm_attr import LanguageModel, load_model
from llm_attr.llm.influence.examples import TextExample, TokenLoss, batch_of, encoded
from llm_attr.llm.influence.index import build_index
from llm_attr.llm.influence.query import InfluenceIndex

NAMES = ("Aldana", "Brevik", "Corvin", "Dreska", "Elvaro", "Farndal", "Gorsum", "Halvik", "Istrel", "Jorven", "Kelmar",
         "Lundal", "Morvik", "Nestra", "Orvane", "Pelgar", "Quorin", "Rostal", "Svendra", "Torvald")  # fmt: skip
TRADES = ("violins", "clocks", "kites", "lanterns", "saddles", "telescopes", "boats", "bells", "carpets", "maps")
TOWNS = ("Tarsin", "Velmora", "Oskarn", "Brindle", "Calleth", "Dunmere", "Estavar", "Fenwick", "Galdor", "Hartsey")
PETS = ("a grey parrot", "two goats", "a tortoise", "an old donkey", "three geese", "a ferret", "a blind cat",
        "an owl", "a pony", "seven hens")  # fmt: skip
DISHES = ("smoked trout", "plum soup", "rye pancakes", "pickled beets", "onion tart", "barley stew", "quince jam",
          "goat cheese", "walnut bread", "mushroom pie")  # fmt: skip
TOOLS = ("a brass compass", "a silver whistle", "a cracked lens", "an iron key", "a velvet glove", "a paper crown",
         "a glass bead", "a copper spoon", "a wooden flute", "a tin soldier")  # fmt: skip


def sentences() -> list[tuple[str, str]]:
    """Ten facts about each of twenty people, as (beginning, end)."""
    found = []
    for i, name in enumerate(NAMES):
        rows = [
            (f"{name} repairs", TRADES[(3 * i + i // 10) % 10]),
            (f"{name} was born in", TOWNS[(7 * i + 3 * (i // 10)) % 10]),
            (f"At home {name} keeps", PETS[(9 * i + 5 * (i // 10)) % 10]),
            (f"The favourite dish of {name} is", DISHES[(i + 7 * (i // 10)) % 10]),
            (f"In a pocket {name} carries", TOOLS[(7 * i + 2 * (i // 10) + 4) % 10]),
            (f"On Sundays {name} walks to", TOWNS[(3 * i + 5 * (i // 10) + 1) % 10]),
            (f"The sister of {name} sells", TRADES[(7 * i + 3 * (i // 10) + 2) % 10]),
            (f"{name} is afraid of", PETS[(3 * i + 9 * (i // 10) + 6) % 10]),
            (f"For breakfast {name} eats", DISHES[(9 * i + 4 * (i // 10) + 5) % 10]),
            (f"{name} once lost", TOOLS[(i + 6 * (i // 10) + 8) % 10]),
        ]
        found += [(start, f" {end}.") for start, end in rows]
    return found


def taught(lm: LanguageModel, texts: list[tuple[str, str]], epochs: int) -> LanguageModel:
    """The model with an adapter that was trained on the texts."""
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["down_proj", "o_proj"], lora_dropout=0.0)
    model: Any = get_peft_model(lm.model, config)
    adapted = LanguageModel(model, lm.tokenizer, "SmolLM2 with an adapter")
    rows = [encoded(adapted, TextExample(*text)) for text in texts]
    weights = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=2e-3)
    for _ in range(epochs):
        for chosen in torch.randperm(len(rows)).split(20):
            batch = batch_of(adapted, [rows[i] for i in chosen.tolist()])
            optimizer.zero_grad()
            loss = TokenLoss(adapted).total(model, batch) / batch.count
            loss.backward()
            optimizer.step()
        print(f"loss {float(loss.detach()):.3f}", flush=True)
    model.eval()
    return adapted


def main() -> None:
    """Teaches, indexes, asks and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--out", type=Path, default=Path("taught_facts.txt"), help="the text that is written")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    texts = sentences()
    lm = taught(load_model("smollm2-135m"), texts, arguments.epochs)
    asked = list(range(7, 200, 21))
    with TemporaryDirectory() as folder:
        build_index(lm, texts, folder, show_progress=True)
        index = InfluenceIndex(folder)
        results = [index.query(lm, *texts[number]) for number in asked]
    ranks = [result.proponents(200).index(number) + 1 for result, number in zip(results, asked, strict=True)]
    for number, rank in zip(asked, ranks, strict=True):
        print(f"{''.join(texts[number])} taught by sentence {number}, which has rank {rank}")
    print(f"in the top 3: {sum(rank <= 3 for rank in ranks)} of {len(ranks)} facts")
    arguments.out.write_text("\n\n".join(result.to_text(3) for result in results), encoding="utf-8")


if __name__ == "__main__":
    main()
