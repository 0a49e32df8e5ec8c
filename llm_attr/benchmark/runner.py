"""Running a benchmark: methods and baselines on items, judged by ablations that all of them share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from time import perf_counter
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from llm_attr.benchmark import baselines
from llm_attr.benchmark.baselines import Baseline
from llm_attr.benchmark.record import Benchmark, Record
from llm_attr.data import Item
from llm_attr.data import items as all_items
from llm_attr.errors import InvalidType, InvalidValue
from llm_attr.llm.explain import explain, prompt_game
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.request import method_named
from llm_attr.metrics import deletion, linear_datamodelling_score, recovery_at_k

METHODS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "feature_ablation": {},
        "kernel_shap": {"n_samples": 64},
        "odd_shap": {"n_samples": 64},
        "permutation_shapley": {"n_samples": 4},
        "banzhaf": {"n_samples": 64},
        "context_cite": {"n_samples": 64},
        "lime": {"n_samples": 64},
        "saliency": {"token_rows": False},
        "input_x_gradient": {"token_rows": False},
        "integrated_gradients": {"n_steps": 16},
        "deep_lift": {"token_rows": False},
        "lrp": {"token_rows": False},
    }
)
"""The methods that are compared by default, and their options."""

BASELINES: Mapping[str, Baseline] = MappingProxyType(
    {
        "random": baselines.chance,
        "position": baselines.last,
        "length": baselines.longest,
        "BM25": baselines.bm25,
        "embedding": baselines.cosine,
        "own citation": baselines.own_citation,
    }
)
"""What methods are compared with."""

ABLATIONS = 32
"""Ablations of an item for the linear datamodelling score."""


def run(
    lm: LanguageModel,
    methods: Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None,
    *,
    items: Sequence[Item] | None = None,
    with_baselines: bool = True,
    seed: int = 0,
    show_progress: bool = False,
) -> Benchmark:
    """Explains each item by each method and compares what they find with the truth.

    Ablations that judge the methods are scored once for an item and shared by all of them.

    Args:
        lm: The model.
        methods: Names of methods, or each with its options; None: `METHODS`.
        items: The items; None: all of `llm_attr.data`.
        with_baselines: Whether to judge `BASELINES` too.
        seed: Of methods, baselines and ablations; no global stream is touched.
        show_progress: Whether to show a bar.

    Raises:
        UnknownName: there is no such method.
        InvalidType: the model is no `LanguageModel`, or an item no `Item`.
        InvalidValue: there are no items.

    Example:
        >>> run(lm, ["feature_ablation"], items=llm_attr.data.items(count=10)).rows()[0].means  # doctest: +SKIP
    """
    chosen, options = _checked(lm, methods, items)
    records: list[Record] = []
    for number, item in enumerate(tqdm(chosen, desc="benchmark", unit="item", disable=not show_progress)):
        records += _of_item(lm, item, options, with_baselines, seed + number)
    names = list(dict.fromkeys(record.method for record in records))
    records.sort(key=lambda record: names.index(record.method))
    expected = sum(len(item.sources) / len(item.units) for item in chosen) / len(chosen)
    return Benchmark(lm.name, tuple(records), expected, seed)


def _checked(
    lm: LanguageModel, methods: Sequence[str] | Mapping[str, Mapping[str, Any]] | None, items: Sequence[Item] | None
) -> tuple[Sequence[Item], Mapping[str, Mapping[str, Any]]]:
    if not isinstance(lm, LanguageModel):
        raise InvalidType(f"a benchmark takes a LanguageModel; got {type(lm).__name__}")
    chosen = all_items() if items is None else tuple(items)
    if not chosen:
        raise InvalidValue("a benchmark needs at least one item")
    for item in chosen:
        if not isinstance(item, Item):
            raise InvalidType(f"items must be Items of llm_attr.data; got {type(item).__name__}")
        if not item.sources:
            raise InvalidValue(f"item {item.id!r} has no source that could be found")
    if methods is None:
        return chosen, METHODS
    if isinstance(methods, str):
        methods = [methods]
    named = methods if isinstance(methods, Mapping) else {name: METHODS.get(name, {}) for name in methods}
    for name in named:
        method_named(name)
    return chosen, named


def _of_item(
    lm: LanguageModel, item: Item, methods: Mapping[str, Mapping[str, Any]], with_baselines: bool, seed: int
) -> list[Record]:
    """The records of an item, baselines first."""
    prompt = item.prompt()
    game = prompt_game(lm, prompt, target=item.target)
    generator = torch.Generator(device="cpu").manual_seed(seed)
    records = []
    for name, baseline in BASELINES.items() if with_baselines else ():
        start = perf_counter()
        attributions = baseline(lm, item, generator)
        passes = len(item.units) if name == "own citation" else 0
        records.append(_record(item, name, attributions, game, passes, perf_counter() - start, seed))
    for name, given in methods.items():
        draws = "seed" in signature(method_named(name).attribute).parameters
        options = {"seed": seed, **given} if draws else given
        start = perf_counter()
        result = explain(lm, prompt, target=item.target, method=name, **options)
        seconds = perf_counter() - start
        passes = sum(int(result.provenance.get(each) or 0) for each in ("passes", "backward"))
        records.append(_record(item, name, result.seq_attr, game, passes, seconds, seed))
    return records


def _record(item: Item, name: str, rows: Tensor, game: Any, passes: int, seconds: float, seed: int) -> Record:
    """What an attribution of an item is worth."""
    attributions = rows.detach().double().cpu()
    found = float(recovery_at_k(attributions, list(item.sources), len(item.sources)).values[0])
    return Record(
        item=item.id,
        kind=item.kind,
        method=name,
        found=found,
        top_1=found if len(item.sources) == 1 else None,
        deletion=float(deletion(attributions, game, normalize=True, seed=seed).values[0]),
        lds=float(linear_datamodelling_score(attributions, game, ABLATIONS, seed=seed).values[0]),
        passes=passes,
        seconds=seconds,
    )
