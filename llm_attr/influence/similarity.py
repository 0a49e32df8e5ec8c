"""Training examples whose activations are most similar to those of test examples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from llm_attr.core.evaluator import Evaluator
from llm_attr.core.pairing.ranking import Ranking
from llm_attr.core.random_state import streams_kept
from llm_attr.core.site import Site, reading
from llm_attr.core.tensors import as_tensors
from llm_attr.errors import InvalidShape, InvalidType, InvalidValue, UnknownKeyword, UnknownName, positive
from llm_attr.influence.base import DataInfluence
from llm_attr.typing import TensorOrTensors

Similarity: TypeAlias = Callable[..., Tensor]
"""`(test activations, training activations) -> (test examples, training examples)`."""


def cosine_similarity(test: Tensor, train: Tensor, replace_nan: int | float = 0) -> Tensor:
    """The cosine of the angle between activations: their inner product, divided by both lengths.

    Args:
        test: `(test examples, *features)`.
        train: `(training examples, *features)`.
        replace_nan: What takes the place of an undefined similarity, of activations that are all zero.

    Returns:
        `(test examples, training examples)`, from -1 to 1.

    Example:
        >>> import torch
        >>> cosine_similarity(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 3.0], [0.0, 0.0]]))
        tensor([[1., 0., 0.]])
    """
    test, train = test.flatten(1), train.flatten(1)
    norms = test.norm(dim=1)[:, None] * train.norm(dim=1)
    return torch.where(norms > 0, (test @ train.T) / norms, torch.full_like(norms, replace_nan))


def euclidean_distance(test: Tensor, train: Tensor) -> Tensor:
    """The distance between activations: `|a - b|`; for `similarity_direction="min"`.

    Args:
        test: `(test examples, *features)`.
        train: `(training examples, *features)`.

    Returns:
        `(test examples, training examples)`, never negative.

    Example:
        >>> import torch
        >>> euclidean_distance(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
        tensor([[5., 1.]])
    """
    return torch.cdist(test.flatten(1), train.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")


class SimilarityInfluence(DataInfluence):
    """Finds the training examples whose activations at chosen layers are most similar to those of each test example.

    `influence(test, train) = similarity(activations of test, activations of train)`. Nothing is trained or
    differentiated; what is found is what the layer takes for alike.

    Activations of the training data are kept in `activation_dir` and read again by later calls, as long as the model's
    weights, the number of examples and the batches are the same.

    Args:
        module: The model.
        layers: Names of layers; their outputs are compared.
        influence_src_dataset: The training data, a Dataset that yields an input, or a tuple of inputs, for each
            example; no labels.
        activation_dir: The folder in which activations are kept.
        model_id: A name for the model, of which one folder may hold several.
        similarity_metric: `(test, train) -> (test examples, training examples)`.
        similarity_direction: `"max"` if larger is more similar, `"min"` if smaller.
        batch_size: Examples in a batch.
        **kwargs: `replace_nan`: what takes the place of undefined similarities.

    Raises:
        InvalidType: the model is no module, or the metric no callable.
        InvalidValue: a layer does not exist, or the data is empty.
        UnknownName: another direction.

    Source: K. Hanawa et al., Evaluation of Similarity-based Explanations, ICLR 2021, section 2.

    Example:
        >>> import torch
        >>> from tempfile import TemporaryDirectory
        >>> from torch.utils.data import TensorDataset
        >>> from llm_attr.influence import SimilarityInfluence
        >>> model, data = torch.nn.Sequential(torch.nn.Identity()), TensorDataset(torch.eye(2))
        >>> with TemporaryDirectory() as folder:
        ...     similarity = SimilarityInfluence(model, "0", data, folder)
        ...     similarity.influence(torch.tensor([[0.0, 2.0]]))["0"]
        (tensor([[1]]), tensor([[1.]]))
    """

    def __init__(
        self,
        module: nn.Module,
        layers: str | list[str],
        influence_src_dataset: Dataset,
        activation_dir: str | Path,
        model_id: str = "",
        similarity_metric: Similarity = cosine_similarity,
        similarity_direction: str = "max",
        batch_size: int = 1,
        **kwargs: Any,
    ) -> None:
        if not isinstance(module, nn.Module):
            raise InvalidType(f"module must be a torch.nn.Module; got {type(module).__name__}")
        if not callable(similarity_metric):
            raise InvalidType(
                f"similarity_metric must be a callable (test, train) -> scores; got {similarity_metric!r}"
            )
        if similarity_direction not in ("max", "min"):
            raise UnknownName("similarity_direction", similarity_direction, ("max", "min"))
        if unknown := kwargs.keys() - {"replace_nan"}:
            raise UnknownKeyword("SimilarityInfluence", unknown, ["replace_nan"])
        self.module, self.layers = module, [layers] if isinstance(layers, str) else list(layers)
        known = dict(module.named_modules())
        for layer in self.layers:
            if layer not in known or not layer:
                raise InvalidValue(f"the model has no layer {layer!r}; its layers: {', '.join(filter(None, known))}")
        self._sites = {layer: Site(known[layer]) for layer in self.layers}
        self.influence_src_dataset, self.batch_size = influence_src_dataset, positive("batch_size", batch_size)
        self.activation_dir, self.model_id = Path(activation_dir), model_id
        self.similarity_metric, self.similarity_direction = similarity_metric, similarity_direction
        self.replace_nan = kwargs.get("replace_nan", 0)

    def influence(  # type: ignore[override]
        self,
        inputs: TensorOrTensors,
        top_k: int = 1,
        additional_forward_args: Any = None,
        load_src_from_disk: bool = True,
        **kwargs: Any,
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """The most similar training examples of each test example.

        Args:
            inputs: The test examples, a tensor or a tuple of tensors `(test examples, *features)`.
            top_k: How many to name, or all if there are fewer.
            additional_forward_args: What the model receives after the inputs, for test and training examples alike.
            load_src_from_disk: Whether activations that an earlier call kept may be read; False computes them anew.
            **kwargs: None; another argument is refused.

        Returns:
            For each layer the numbers and the similarities of `(test examples, top_k)`, the most similar first.

        Raises:
            InvalidShape: the metric returned no score for each pair.
            LayerNotReached: a layer is not reached in the forward pass.
        """
        if kwargs:
            raise UnknownKeyword("SimilarityInfluence.influence", kwargs, ["load_src_from_disk", "top_k"])
        given = additional_forward_args
        extras = () if given is None else given if isinstance(given, tuple) else (given,)
        largest, k = self.similarity_direction == "max", positive("top_k", top_k)
        tests = self._activations(as_tensors(inputs), extras)
        rankings, start = {layer: Ranking(k, largest) for layer in self.layers}, 0
        for train in self._training(extras, load_src_from_disk):
            for layer in self.layers:
                rankings[layer].add(self._similarity(tests[layer], train[layer].to(tests[layer])), start)
            start += len(train[self.layers[0]])
        return {layer: tuple(ranking.result) for layer, ranking in rankings.items()}  # type: ignore[misc]

    def _similarity(self, tests: Tensor, train: Tensor) -> Tensor:
        scores = self.similarity_metric(tests, train)
        if tuple(scores.shape) != (len(tests), len(train)):
            raise InvalidShape(
                f"similarity_metric must return (test examples, training examples), here ({len(tests)}, {len(train)}); "
                f"got {tuple(scores.shape)}"
            )
        return torch.where(scores.isnan(), torch.full_like(scores, self.replace_nan), scores)

    def _activations(self, inputs: Sequence[Any], extras: tuple[Any, ...]) -> dict[str, Tensor]:
        device = next((value.device for value in self.module.parameters()), None)
        placed = [item.to(device) if isinstance(item, Tensor) and device is not None else item for item in inputs]
        with torch.no_grad(), ExitStack() as stack:
            readings = {layer: stack.enter_context(reading(site)) for layer, site in self._sites.items()}
            self.module(*placed, *extras)
        return {layer: record.tensors[0] for layer, record in readings.items()}

    def _training(self, extras: tuple[Any, ...], from_disk: bool) -> Iterator[dict[str, Tensor]]:
        folder = self.activation_dir / self.model_id / "activations"
        manifest = folder / "manifest.json"
        wanted = {"layers": self.layers, "batch_size": self.batch_size, "fingerprint": self._fingerprint(extras)}
        if from_disk and (count := _kept_files(manifest, wanted)):
            yield from (load_file(folder / f"{number}.safetensors") for number in range(count))
            return
        folder.mkdir(parents=True, exist_ok=True)
        manifest.unlink(missing_ok=True)
        number = 0
        with streams_kept(), Evaluator("Similarity Influence activations", self._size() or 0) as evaluator:
            for inputs in self._batches():
                evaluator.check()
                found = self._activations(inputs, extras)
                kept = {name: value.cpu().contiguous() for name, value in found.items()}
                save_file(kept, folder / f"{number}.safetensors")
                number += 1
                yield found
                evaluator.advance(len(found[self.layers[0]]))
        if not number:
            raise InvalidValue("influence_src_dataset has no examples")
        manifest.write_text(json.dumps({**wanted, "files": number}), encoding="utf-8")

    def _batches(self) -> Iterator[Sequence[Any]]:
        data = self.influence_src_dataset
        if type(data) is TensorDataset:
            for start in range(0, len(data), self.batch_size):
                yield [tensor[start : start + self.batch_size] for tensor in data.tensors]
            return
        for items in DataLoader(data, self.batch_size, generator=torch.Generator()):
            yield items if isinstance(items, tuple | list) else [items]

    def _size(self) -> int | None:
        size = getattr(self.influence_src_dataset, "__len__", None)
        return None if size is None else int(size())

    def _fingerprint(self, extras: tuple[Any, ...]) -> str:
        """A hash of the model's weights, the number of examples, the first of them and the additional arguments."""
        digest = hashlib.sha256(f"{self._size()} {extras!r}".encode())
        first = next(self._batches(), [])
        tensors = [item for item in first if isinstance(item, Tensor)]
        for value in [*self.module.state_dict().values(), *tensors]:
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def _kept_files(manifest: Path, wanted: dict[str, Any]) -> int:
    """How many files of activations an earlier call kept; 0 if they belong to another model or other data."""
    try:
        kept = json.loads(manifest.read_text(encoding="utf-8"))
        return int(kept.pop("files")) if {**kept, **wanted} == kept else 0
    except (OSError, ValueError, KeyError, AttributeError, SafetensorError):
        return 0
