"""The prefix tree against its definition by sets of prefixes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_attr.llm.prompt.variant import Variant
from llm_attr.llm.scoring.prefix_tree import PrefixTree, Query
from tests.reference.scoring import distinct_prefixes

tokens = st.lists(st.integers(0, 2), min_size=1, max_size=6)


@st.composite
def forests(draw: st.DrawFn) -> list[Query]:
    """Variants that share prefixes, with and without gaps in their positions, and answers of different lengths."""
    answers = draw(st.lists(tokens, min_size=1, max_size=3))
    queries = []
    for row in draw(st.lists(tokens, min_size=1, max_size=6)):
        steps = draw(st.lists(st.sampled_from([1, 1, 1, 2, 4]), min_size=len(row), max_size=len(row)))
        variant = Variant(tuple(row), tuple(int(place) - 1 for place in np.cumsum(steps)))
        queries += [
            Query(variant, tuple(answer)) for answer in draw(st.permutations(answers))[: draw(st.integers(1, 3))]
        ]
    return list(dict.fromkeys(queries))


def path_of(query: Query) -> list[tuple[int, int]]:
    """`(position, token)` of everything that goes through the model."""
    variant, answer = query.variant, query.answer
    after = range(variant.positions[-1] + 1, variant.positions[-1] + len(answer))
    return list(zip([*variant.positions, *after], [*variant.tokens, *answer[:-1]], strict=True))


def path_in(tree: PrefixTree, node: int) -> list[tuple[int, int]]:
    """The same, read from the tree by its parents alone."""
    path: list[tuple[int, int]] = []
    while node >= 0:
        path.append((int(tree.positions[node]), int(tree.tokens[node])))
        node = int(tree.parent[node])
    return path[::-1]


@given(forests())
def test_every_prefix_is_one_node(queries: list[Query]) -> None:
    tree = PrefixTree.of(queries)
    assert len(tree) == distinct_prefixes([path_of(query) for query in queries])
    paths = {tuple(path_in(tree, node)) for node in range(len(tree))}
    assert len(paths) == len(tree)


@given(forests())
def test_predictors_are_the_nodes_before_each_token_of_the_answer(queries: list[Query]) -> None:
    tree = PrefixTree.of(queries)
    starts = [0, *tree.stops[:-1]]
    assert tree.predictors.shape == tree.targets.shape == (sum(len(query.answer) for query in queries),)
    for query, start, stop in zip(queries, starts, tree.stops, strict=True):
        whole = path_of(query)
        assert tuple(tree.targets[start:stop]) == query.answer
        for place, node in enumerate(tree.predictors[start:stop]):
            assert path_in(tree, int(node)) == whole[: len(query.variant.tokens) + place]


@given(forests())
def test_the_first_and_the_last_node_of_each_query(queries: list[Query]) -> None:
    tree = PrefixTree.of(queries)
    for query, first, last in zip(queries, tree.root, tree.last, strict=True):
        assert path_in(tree, int(last)) == path_of(query)
        assert path_in(tree, int(first)) == path_of(query)[:1]


@given(forests(), st.sampled_from([None, 1, 2, 5]))
def test_ancestors_and_what_is_visible(queries: list[Query], window: int | None) -> None:
    tree = PrefixTree.of(queries)
    everything = np.arange(len(tree))
    visible = tree.visible(everything, everything, window)
    for node in everything:
        path, above = [int(node)], int(tree.parent[node])
        while above >= 0:
            path.insert(0, above)
            above = int(tree.parent[above])
        assert tree.ancestors(int(node)).tolist() == path[:-1]
        near = [key for key in path if window is None or tree.positions[node] - tree.positions[key] < window]
        assert visible[node].nonzero().flatten().tolist() == near
        assert tree.end[node] == 1 + max(
            other for other in everything if path_in(tree, other)[: len(path)] == path_in(tree, int(node))
        )


@given(forests(), st.data())
def test_a_run_of_nodes_needs_itself_and_the_ancestors_of_its_first(queries: list[Query], data: st.DataObject) -> None:
    tree = PrefixTree.of(queries)
    start = data.draw(st.integers(0, len(tree) - 1))
    stop = data.draw(st.integers(start + 1, len(tree)))
    have = {*tree.ancestors(start).tolist(), *range(start, stop)}
    for node in range(start, stop):
        assert set(tree.ancestors(node).tolist()) <= have


def test_a_variant_without_tokens_is_refused_by_the_caller() -> None:
    with pytest.raises(IndexError):
        PrefixTree.of([Query(Variant((), ()), (1,))])
