"""Concepts: examples that people would give the same name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from llm_attr.errors import InvalidType, InvalidValue


class Concept:
    """A concept, by examples of it; or random examples, to which one is compared.

    Args:
        id: A number of its own.
        name: A name for people, and for files.
        data_iter: A DataLoader, or another iterable that can be read again, of batches: tensors `(examples,
            *features)` in the form of the model's inputs, or pairs of such and labels, which are not used. None:
            activations or CAVs were stored before.

    Raises:
        InvalidType: the id is no whole number, or the data cannot be read.

    Example:
        >>> import torch
        >>> from llm_attr.concept import Concept
        >>> Concept(0, "striped", torch.utils.data.DataLoader(torch.rand(8, 3, 16, 16), batch_size=4))
        Concept(0, 'striped')
    """

    def __init__(self, id: int, name: str, data_iter: Iterable[Any] | None) -> None:
        if isinstance(id, bool) or not isinstance(id, int):
            raise InvalidType(f"the id of a concept must be a whole number; got {id!r}")
        if data_iter is not None and (not hasattr(data_iter, "__iter__") or hasattr(data_iter, "__next__")):
            raise InvalidType(
                f"data_iter of concept {name!r} must be a DataLoader, or another iterable that can be read several "
                f"times; got {type(data_iter).__name__}"
            )
        self.id, self.name, self.data_iter = id, name, data_iter

    @property
    def identifier(self) -> str:
        """Name and number, as in the names of files."""
        return f"{self.name}-{self.id}"

    def __repr__(self) -> str:
        return f"Concept({self.id}, {self.name!r})"


class ConceptInterpreter:
    """A method that explains a model by concepts.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        if not isinstance(model, nn.Module):
            raise InvalidType(f"model must be a torch.nn.Module; got {type(model).__name__}")
        self.model = model

    def interpret(self, inputs: Any, **kwargs: Any) -> Any:
        """Explains the model on inputs; each method has its own arguments."""
        raise NotImplementedError(f"{type(self).__name__} has no interpret")


def concepts_to_str(concepts: Sequence[Concept]) -> str:
    """The numbers of concepts, joined by `-`: the key of a set of them.

    Args:
        concepts: The concepts, in their order.

    Example:
        >>> from llm_attr.concept import Concept, concepts_to_str
        >>> concepts_to_str([Concept(2, "striped", None), Concept(0, "random", None)])
        '2-0'
    """
    return "-".join(str(concept.id) for concept in concepts)


def checked_sets(sets: Any) -> list[list[Concept]]:
    """Sets of concepts in the caller's form.

    Raises:
        InvalidType: it is not a list of lists of concepts.
        InvalidValue: there is no set, a set of fewer than two concepts, or two concepts with the same id.
    """
    lists = isinstance(sets, Sequence) and all(
        isinstance(each, Sequence) and not isinstance(each, str) for each in sets
    )
    if not lists or not all(isinstance(concept, Concept) for each in sets for concept in each):
        raise InvalidType(f"experimental_sets must be a list of lists of concepts; got {sets!r}")
    if not sets:
        raise InvalidValue("experimental_sets is empty; it needs a list of at least two concepts")
    known: dict[int, Concept] = {}
    for each in sets:
        if len({concept.id for concept in each}) < 2:
            raise InvalidValue(f"a set needs at least two different concepts, of which one may be random; got {each!r}")
        if len({concept.id for concept in each}) < len(each):
            raise InvalidValue(f"a set names a concept twice: {each!r}")
        for concept in each:
            if known.setdefault(concept.id, concept) is not concept:
                raise InvalidValue(
                    f"{known[concept.id]!r} and {concept!r} have the same id {concept.id}; give each concept an id of "
                    "its own, and use the same object for it in all sets"
                )
    return [list(each) for each in sets]
