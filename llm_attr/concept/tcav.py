"""Testing with concept activation vectors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from llm_attr.attr.base import LayerAttribution
from llm_attr.attr.gradient import LayerGradientXActivation
from llm_attr.concept.activation_store import AV, data_fingerprint, store_activations
from llm_attr.concept.cav import CAV
from llm_attr.concept.classifier import Classifier, DefaultClassifier
from llm_attr.concept.concept import Concept, ConceptInterpreter, checked_sets, concepts_to_str
from llm_attr.concept.significance import ConceptSignificance, Score, check_runs, judged
from llm_attr.concept.training import train_all
from llm_attr.core.concepts.activations import fingerprint, joined_features, sites_of
from llm_attr.errors import InvalidShape, InvalidType, InvalidValue
from llm_attr.typing import Target, TensorOrTensors


class TCAV(ConceptInterpreter):
    """How far an output grows when activations move towards a concept.

    `score_i = v . df/du(x_i)`, with the activations u of a layer and the direction v of the concept, the weights of a
    classifier that tells its activations from those of other concepts. `sign_count` is the share of inputs with a score
    above 0, `magnitude` the mean score.

    Activations and CAVs are kept in `save_path` and used again, as long as weights, data and classifier are the same.

    Args:
        model: The model.
        layers: The name of a layer in `model.named_modules()`, or several; their activations and gradients come from
            the same passes.
        model_id: A name for the model, of which one folder may hold several.
        classifier: Tells concepts apart; None: `DefaultClassifier()`.
        layer_attr_method: An attribution method of layers, made without one (`LayerIntegratedGradients(model, None)`),
            whose attributions take the place of the gradient; None: the gradient.
        attribute_to_layer_input: Whether to use the inputs of the layers instead of their outputs.
        save_path: The folder in which activations and CAVs are kept.
        **classifier_kwargs: Options of the classifier's `train_and_eval`.

    Raises:
        UnknownName: the model has no such layer.
        InvalidType: the classifier or the attribution method is none.

    Source: B. Kim et al., Interpretability Beyond Feature Attribution: Quantitative Testing with Concept Activation
    Vectors (TCAV), ICML 2018, equations 1 and 2.

    Example:
        >>> import torch
        >>> from tempfile import TemporaryDirectory
        >>> from llm_attr.concept import TCAV, Concept
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
        >>> high, low = (Concept(i, n, [torch.rand(9, 2) + 3 * i]) for i, n in enumerate(["low", "high"]))
        >>> with TemporaryDirectory() as folder:
        ...     tcav = TCAV(model, "0", save_path=folder)
        ...     tcav.interpret(torch.rand(4, 2), [[high, low]], target=0)["0-1"]["0"]["sign_count"].shape
        torch.Size([2])
    """

    def __init__(
        self,
        model: nn.Module,
        layers: str | list[str],
        model_id: str = "default_model_id",
        classifier: Classifier | None = None,
        layer_attr_method: LayerAttribution | None = None,
        attribute_to_layer_input: bool = False,
        save_path: str = "./cav/",
        **classifier_kwargs: Any,
    ) -> None:
        super().__init__(model)
        self.layers = [layers] if isinstance(layers, str) else list(layers)
        if not self.layers:
            raise InvalidValue("layers must name at least one layer of the model")
        self._sites = sites_of(model, self.layers, attribute_to_layer_input)
        if classifier is not None and not isinstance(classifier, Classifier):
            raise InvalidType(f"classifier must be an llm_attr.concept.Classifier; got {type(classifier).__name__}")
        if layer_attr_method is not None and not hasattr(layer_attr_method, "layer"):
            raise InvalidType(
                "layer_attr_method must be an attribution method of layers, as LayerIntegratedGradients(model, None); "
                f"got {type(layer_attr_method).__name__}"
            )
        self.model_id, self.save_path = model_id, str(save_path)
        self.classifier = classifier or DefaultClassifier()
        self.classifier_kwargs = classifier_kwargs
        self.layer_attr_method: Any = layer_attr_method or LayerGradientXActivation(
            model, None, multiply_by_inputs=False
        )
        self.attribute_to_layer_input = attribute_to_layer_input
        self.concepts: set[Concept] = set()
        self.cavs: dict[str, dict[str, CAV]] = defaultdict(dict)

    def generate_all_activations(self) -> None:
        """Stores the activations of all concepts in `concepts` at all layers."""
        self.generate_activations(dict.fromkeys(self.concepts, self.layers))

    def generate_activation(self, layers: str | list[str], concept: Concept) -> None:
        """Stores the activations of a concept.

        Args:
            layers: The name of a layer, or several.
            concept: The concept.

        Raises:
            InvalidValue: it has no examples.
        """
        self.generate_activations({concept: [layers] if isinstance(layers, str) else list(layers)})

    def generate_activations(self, concept_layers: dict[Concept, list[str]]) -> None:
        """Stores the activations of several concepts; what is stored already, of the same weights and data, stays.

        Args:
            concept_layers: The names of layers, for each concept.

        Raises:
            InvalidValue: a concept has no examples.
        """
        self._generate(concept_layers, _Prints(self._model_fingerprint()))

    def load_cavs(self, concepts: list[Concept]) -> tuple[list[str], dict[Concept, list[str]]]:
        """Loads the stored CAVs of a set of concepts.

        Args:
            concepts: The set.

        Returns:
            The layers without one, and the same for each concept.
        """
        return self._load(concepts, _Prints(self._model_fingerprint()))

    def compute_cavs(
        self, experimental_sets: list[list[Concept]], force_train: bool = False, processes: int | None = None
    ) -> dict[str, dict[str, CAV]]:
        """The CAVs of several sets of concepts; those stored, of the same weights, data and classifier, are loaded.

        Args:
            experimental_sets: Sets of two or more concepts.
            force_train: Whether to compute activations and CAVs anew in any case.
            processes: How many processes train. With a `seed` in `classifier_kwargs` their number changes nothing.

        Returns:
            For the key of each set, see `concepts_to_str`, the CAV of each layer.

        Raises:
            InvalidValue: a set of fewer than two concepts, concepts with the same id, or one without examples.
            ProcessLost: a process ended without an answer.
        """
        sets, prints = checked_sets(experimental_sets), _Prints(self._model_fingerprint())
        if processes is not None and (isinstance(processes, bool) or not isinstance(processes, int) or processes < 1):
            raise InvalidValue(f"processes must be a whole number of at least 1, or None; got {processes!r}")
        self.concepts.update(concept for each in sets for concept in each)
        every = {concept: self.layers for each in sets for concept in each}
        missing = [(each, self.layers if force_train else self._load(each, prints)[0]) for each in sets]
        needed: dict[Concept, list[str]] = {}
        for each, layers in missing:
            for concept in each if layers else []:
                needed[concept] = list(dict.fromkeys([*needed.get(concept, []), *layers]))
        self._generate(every if force_train else needed, prints, not force_train)
        options = (self.classifier, self.save_path, self.classifier_kwargs)
        jobs = [(self.model_id, each, layers, *options) for each, layers in missing if layers]
        for (_, each, *_), trained in zip(jobs, train_all(jobs, processes), strict=True):
            for layer, cav in trained.items():
                cav.concepts, cav.fingerprint = each, self._cav_fingerprint(each, prints)
                cav.save()
                self.cavs[concepts_to_str(each)][layer] = cav
        keys = dict.fromkeys(concepts_to_str(each) for each in sets)
        return {key: {layer: self.cavs[key][layer] for layer in self.layers} for key in keys}

    def interpret(  # type: ignore[override]
        self,
        inputs: TensorOrTensors,
        experimental_sets: list[list[Concept]],
        target: Target = None,
        additional_forward_args: Any = None,
        processes: int | None = None,
        **kwargs: Any,
    ) -> dict[str, dict[str, dict[str, Tensor]]]:
        """The scores of the concepts of each set at each layer.

        Args:
            inputs: A tensor or tuple of tensors `(batch, *features)`.
            experimental_sets: Sets of two or more concepts.
            target: The output entry, as of `LayerAttribution`; None for a model with one output, and for a method that
                takes no target, such as `LayerActivation`.
            additional_forward_args: What the model receives after the inputs.
            processes: How many processes train the CAVs that are not stored.
            **kwargs: Further arguments of the attribution method's `attribute`, such as `n_steps`.

        Returns:
            For the key of each set and the name of each layer `sign_count` and `magnitude`, each `(concepts,)`.

        Raises:
            InvalidValue: see `compute_cavs`; or a target for a method that takes none.
            InvalidShape: a CAV has another number of features than the layer has now.
        """
        sets = checked_sets(experimental_sets)
        cavs = self.compute_cavs(sets, processes=processes)
        found = self._attributions(inputs, target, additional_forward_args, kwargs)
        return {
            concepts_to_str(each): {
                layer: _scores(found[layer], cavs[concepts_to_str(each)][layer], each) for layer in self.layers
            }
            for each in sets
        }

    def significance(
        self,
        inputs: TensorOrTensors,
        concepts: Sequence[Concept],
        random_concepts: Sequence[Concept],
        target: Target = None,
        additional_forward_args: Any = None,
        processes: int | None = None,
        *,
        score: Score = "sign_count",
        level: float = 0.95,
        **kwargs: Any,
    ) -> ConceptSignificance:
        """The scores of concepts beside each of several random ones, and whether random concepts score the same.

        Each concept is told from each random concept, and each random concept from the next one, which gives scores by
        chance. A permutation test compares their means; p-values hold for all layers and concepts together (Holm).

        Args:
            inputs: A tensor or tuple of tensors `(batch, *features)`.
            concepts: What is tested.
            random_concepts: At least 3, better 10 or more, of random examples each.
            target: The output entry, as of `LayerAttribution`.
            additional_forward_args: What the model receives after the inputs.
            processes: How many processes train the CAVs that are not stored.
            score: `sign_count` or `magnitude`.
            level: The coverage of the intervals.
            **kwargs: Further arguments of the attribution method's `attribute`.

        Raises:
            InvalidValue: fewer than 3 random concepts, or none to test; see also `compute_cavs`.
            UnknownName: another score.

        Example:
            >>> found = tcav.significance(images, [striped], randoms, target=340)  # doctest: +SKIP
            >>> print(found)  # doctest: +SKIP
        """
        tested, randoms = check_runs(concepts, random_concepts, score)
        beside = [[concept, other] for concept in tested for other in randoms]
        chance = [[one, randoms[(place + 1) % len(randoms)]] for place, one in enumerate(randoms)]
        found = self.interpret(inputs, [*beside, *chance], target, additional_forward_args, processes, **kwargs)

        def runs(sets: Sequence[list[Concept]]) -> Tensor:
            rows = [[found[concepts_to_str(each)][layer][score][0].cpu() for each in sets] for layer in self.layers]
            return torch.stack([torch.stack(row) for row in rows]).double()

        scores = runs(beside).view(len(self.layers), len(tested), len(randoms))
        names = tuple(concept.name for concept in tested)
        return judged(tuple(self.layers), names, scores, runs(chance), score, level)

    def _attributions(
        self, inputs: TensorOrTensors, target: Target, extras: Any, options: dict[str, Any]
    ) -> dict[str, Tensor]:
        """`(batch, features)` of each layer; gradients of all layers come from one backward pass."""
        method, before = self.layer_attr_method, self.layer_attr_method.layer
        shared = {"additional_forward_args": extras, **options, **_targeted(method, target)}
        if self.attribute_to_layer_input:
            shared["attribute_to_layer_input"] = True
        together = isinstance(method, LayerGradientXActivation)
        layers = [self._sites[layer].layer for layer in self.layers]
        try:
            if together:
                method.layer = layers
                found = method.attribute(inputs, **shared)
            else:
                found = []
                for layer in layers:
                    method.layer = layer
                    found.append(method.attribute(inputs, **shared))
        finally:
            method.layer = before
        tensors = [each if isinstance(each, tuple) else (each,) for each in found]
        return {
            layer: joined_features(each).detach().flatten(1) for layer, each in zip(self.layers, tensors, strict=True)
        }

    def _generate(self, concept_layers: dict[Concept, list[str]], prints: _Prints, from_disk: bool = True) -> None:
        for concept, layers in concept_layers.items():
            sites = sites_of(self.model, layers, self.attribute_to_layer_input)
            name = concept.identifier
            if concept.data_iter is None:
                if lost := [layer for layer in sites if not AV.exists(self.save_path, self.model_id, name, layer)]:
                    raise InvalidValue(
                        f"{concept!r} has no examples (data_iter is None), and no stored ones for {lost}"
                    )
                continue
            wanted = prints.of(concept)
            store_activations(
                self.save_path, self.model_id, name, self.model, sites, concept.data_iter, wanted, from_disk
            )

    def _load(self, concepts: list[Concept], prints: _Prints) -> tuple[list[str], dict[Concept, list[str]]]:
        key, missing = concepts_to_str(concepts), list[str]()
        for layer in self.layers:
            cav = CAV.load(self.save_path, self.model_id, concepts, layer)
            if cav is None or not self._is_current(cav, concepts, prints):
                missing.append(layer)
            else:
                self.cavs[key][layer] = cav
        return missing, {concept: list(missing) for concept in concepts} if missing else {}

    def _is_current(self, cav: CAV, concepts: list[Concept], prints: _Prints) -> bool:
        """Whether weights, data and classifier are those of a stored CAV; taken for granted where no data is given."""
        if any(concept.data_iter is None for concept in concepts):
            return True
        return cav.fingerprint == self._cav_fingerprint(concepts, prints)

    def _cav_fingerprint(self, concepts: list[Concept], prints: _Prints) -> str:
        made = type(self.classifier)
        options = sorted(self.classifier_kwargs.items()), vars(self.classifier).get("probe")
        return fingerprint([], [prints.of(concept) for concept in concepts], made.__qualname__, options)

    def _model_fingerprint(self) -> str:
        return fingerprint(self.model.state_dict().values(), self.attribute_to_layer_input)


class _Prints:
    """The fingerprints of concepts, each computed once in a call."""

    def __init__(self, model: str) -> None:
        self.model = model
        self._known: dict[Concept, str] = {}

    def of(self, concept: Concept) -> str:
        if concept not in self._known:
            self._known[concept] = data_fingerprint(concept.data_iter, self.model)
        return self._known[concept]


def _targeted(method: Any, target: Target) -> dict[str, Any]:
    """The target as an argument of the method's `attribute`, which may take none."""
    if "target" in signature(method.attribute).parameters:
        return {"target": target}
    if target is not None:
        raise InvalidValue(f"{type(method).__name__}.attribute takes no target; leave it out; got {target!r}")
    return {}


def _scores(attributions: Tensor, cav: CAV, concepts: list[Concept]) -> dict[str, Tensor]:
    """`sign_count` and `magnitude` of each concept."""
    weights = cav.weights_of(concepts).to(attributions.device)
    if weights.shape[1] != attributions.shape[1]:
        raise InvalidShape(
            f"the CAV of layer {cav.layer!r} has {weights.shape[1]} features, the layer's attributions have "
            f"{attributions.shape[1]}; inputs must have the size of the concepts' examples, "
            "and the attribution method must give each feature its own"
        )
    kind = torch.promote_types(torch.promote_types(weights.dtype, attributions.dtype), torch.float32)
    scores = attributions.to(kind) @ weights.to(kind).T
    return {"sign_count": (scores > 0).to(kind).mean(0), "magnitude": scores.mean(0)}
