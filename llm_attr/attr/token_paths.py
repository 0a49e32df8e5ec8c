"""Integrated gradients on paths made for text: token by token, or close to words of the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from llm_attr.attr.base import GradientAttribution
from llm_attr.attr.baselines import vocabulary as vocabulary_of
from llm_attr.attr.forms import keeps_form
from llm_attr.core.path.token_path import PiecewisePath, PositionPaths, along
from llm_attr.core.path.walk import Attributed, Change, per_example, quadrature
from llm_attr.core.path.word_path import WordPaths
from llm_attr.core.problem import Problem
from llm_attr.core.registry import registered
from llm_attr.core.site import Site
from llm_attr.core.tensors import in_slots
from llm_attr.errors import InvalidValue, UnknownName
from llm_attr.typing import Baselines, ForwardFunction, Target, TensorOrTensors


class TokenPathAttribution(GradientAttribution):
    """A path method for sequences of vectors, or for token ids and the layer that embeds them.

    Args:
        layer: The embedding layer if the inputs are token ids; its outputs are attributed. None: the inputs are
            embeddings.
    """

    multiplies_by_inputs = True
    starts_at_baseline = True

    def __init__(self, forward_func: ForwardFunction, layer: nn.Module | Site | None = None) -> None:
        super().__init__(forward_func)
        self.layer = None if layer is None else Site.of(layer)

    def _problem(self, *args: Any) -> Problem:
        """The problem of `_of_outputs`, cut at the embedding layer if there is one."""
        problem = self._of_outputs(*args)
        return problem if self.layer is None else problem.cut_at([self.layer])


@registered
class SequentialIntegratedGradients(TokenPathAttribution):
    """Integrates the gradient position by position, while all others keep their inputs.

    `attribution_p = (x_p - b_p) * integral over a in [0, 1] of df/dx_p at (x with b_p + a (x_p - b_p) at p)`

    No point of a path has more than one interpolated word. The attributions of a position sum to the change of the
    output when its baseline (the mask or pad token) is put there; those of all positions do not sum to the total
    change. The paper's normalisation (by the norm over positions) is not applied. The cost is `n_steps` points for each
    position that differs from its baseline.

    Source: J. Enguehard, Sequential Integrated Gradients: a simple but effective method for explaining language
    models, Findings of ACL 2023, equation 3.

    Example:
        >>> import torch
        >>> from llm_attr.attr import SequentialIntegratedGradients
        >>> method = SequentialIntegratedGradients(lambda x: x[:, 0, 0] * x[:, 1, 0])
        >>> method.attribute(torch.tensor([[[2.0], [3.0]]])).round(decimals=4)
        tensor([[[6.],
                 [6.]]])
    """

    by_position = True

    @keeps_form
    def attribute(
        self,
        inputs: TensorOrTensors,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        *,
        targets: Sequence[Target] | None = None,
    ) -> Any:
        """The sequential integrated gradient of each entry.

        Shared arguments: see `GradientAttribution`.

        Args:
            inputs: Embeddings `(batch, positions, *features)`, or token ids if there is a layer; a tuple holds several
                sequences.
            baselines: See `Attribution`; for token ids, for example the mask token (leave special tokens unchanged).
            n_steps: The number of points per position.
            return_convergence_delta: Whether to also return the delta of each position: the sum of its attributions
                minus the change of the output between baseline and input at this position.

        Returns:
            Same form as the inputs (or the layer's output), in units of the output; followed by the delta
            `(batch, positions)` if requested, a tuple for several tensors.

        Raises:
            InvalidShape: an input has no axis of positions.
        """
        problem = self._problem(inputs, baselines, target, targets, additional_forward_args)
        asked = (n_steps, method, internal_batch_size, return_convergence_delta)
        return self._in_form(self.attribute_problem(problem, *asked))

    def attribute_problem(
        self,
        problem: Problem,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
    ) -> Attributed:
        """See `GradientAttribution`."""
        paths = PositionPaths.of(problem, quadrature(method, n_steps))
        walk = self._walk(problem, paths.count, internal_batch_size)
        attributed = along(walk, paths.points, paths.lengths, paths.count)
        if not return_convergence_delta:
            return attributed
        return replace(attributed, more=tuple(in_slots(paths.deltas(walk, attributed), attributed.slots)))


@registered
class DiscretizedIntegratedGradients(TokenPathAttribution):
    """Integrates the gradient along a path of points that are close to words of the vocabulary.

    `attribution_i = sum over points k of df/dx_i(x^k) (x_i^(k+1) - x_i^k)`, from the baseline to the input. Each vector
    of a sequence has its own path, on which every entry is monotone; see `WordPaths`. All vectors move together.

    Args:
        vocabulary: The word vectors, `(words, features)`; by default those of the embedding layer. Inputs with
            different numbers of features need one table each.
        strategy: How the next word is chosen: `greedy` or `maxcount`.
        n_neighbors: The number of nearest neighbours to choose it from.

    Source: S. Sanyal and X. Ren, Discretized Integrated Gradients for Explaining Language Models, EMNLP 2021,
    section 3.

    Example:
        >>> import torch
        >>> from llm_attr.attr import DiscretizedIntegratedGradients
        >>> embedding = torch.nn.Embedding(50, 3)
        >>> model = torch.nn.Sequential(embedding, torch.nn.Linear(3, 1), torch.nn.Flatten())
        >>> method = DiscretizedIntegratedGradients(model, layer=embedding)
        >>> method.attribute(torch.tensor([[3, 14, 15]]), baselines=0, target=2).shape
        torch.Size([1, 3, 3])
    """

    def __init__(
        self,
        forward_func: ForwardFunction,
        layer: nn.Module | Site | None = None,
        *,
        vocabulary: Tensor | Sequence[Tensor] | None = None,
        strategy: str = "greedy",
        n_neighbors: int = 500,
    ) -> None:
        super().__init__(forward_func, layer)
        if vocabulary is None and self.layer is None:
            raise InvalidValue(
                "the path needs word vectors; pass an embedding layer (layer=) or a table of vectors (vocabulary=)"
            )
        WordPaths(1, n_neighbors, strategy)
        self.vocabulary, self.strategy, self.n_neighbors = vocabulary, strategy, n_neighbors

    @keeps_form
    def attribute(
        self,
        inputs: TensorOrTensors,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        n_steps: int = 30,
        method: str = "riemann_left",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        *,
        factor: int = 0,
        targets: Sequence[Target] | None = None,
    ) -> Any:
        """The discretized integrated gradient of each entry.

        Shared arguments: see `GradientAttribution`.

        Args:
            inputs: Embeddings `(batch, *positions, features)`, or token ids if there is a layer.
            baselines: See `Attribution`; for token ids, for example the pad or mask token.
            n_steps: The number of words between baseline and input. The complete path is kept in memory, `n_steps + 2`
                times the size of the inputs.
            method: Where on each segment the gradient is taken: `riemann_left` (start, as in the paper),
                `riemann_right` (end), `riemann_trapezoid` (mean of both) or `riemann_middle`; the last two are exact
                for quadratic functions. Only `riemann_middle` avoids the baseline itself, where normalising a vector of
                zeros gives huge gradients.
            factor: How many times each segment of the path is halved.

        Returns:
            Same form as the inputs (or the layer's output), in units of the output; followed by the delta `(batch,)` if
            requested.

        Raises:
            InvalidShape: the vocabulary has vectors of another length than the inputs.
        """
        problem = self._problem(inputs, baselines, target, targets, additional_forward_args)
        asked = (n_steps, method, internal_batch_size, return_convergence_delta)
        return self._in_form(self.attribute_problem(problem, *asked, factor=factor))

    def attribute_problem(
        self,
        problem: Problem,
        n_steps: int = 30,
        method: str = "riemann_left",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        *,
        factor: int = 0,
        words: int | None = None,
    ) -> Attributed:
        """See `GradientAttribution`.

        Args:
            problem: What is explained.
            n_steps: See `attribute`, also for the arguments that follow.
            method: Where on each segment the gradient is taken.
            internal_batch_size: The maximum number of rows per call of the model.
            return_convergence_delta: Whether to also return the delta.
            factor: How many times each segment is halved.
            words: How many words of the vocabulary to search; None: all. The number of points does not depend on it.
        """
        if method not in _PIECES:
            raise UnknownName("method", method, _PIECES)
        tables = [table[:words] for table in self._tables()]
        path = PiecewisePath.of(problem, tables, WordPaths(n_steps, self.n_neighbors, self.strategy), factor)
        path = replace(path, shift=0.5 if method == "riemann_middle" else 0.0)
        walk = self._walk(problem, path.count, internal_batch_size)
        attributed = along(walk, path.points, path.lengths(*_PIECES[method]), path.count)
        if not return_convergence_delta:
            return attributed
        total = per_example(attributed.tensors, problem.batch, attributed.axis)
        return replace(attributed, more=(Change.of(problem).delta(total),))

    def _tables(self) -> list[Tensor]:
        if self.vocabulary is not None:
            return [self.vocabulary] if isinstance(self.vocabulary, Tensor) else list(self.vocabulary)
        return [vocabulary_of(self.layer.layer)] if self.layer else []


_PIECES = {
    "riemann_left": (0.0, 1.0),
    "riemann_right": (1.0, 0.0),
    "riemann_trapezoid": (0.5, 0.5),
    "riemann_middle": (0.0, 1.0),
}
"""The weights of the segments before and after a point."""
