"""Feature ablation: how much the output falls when features are removed."""

from __future__ import annotations

from typing import Any

import torch

from llm_attr.attr.base import LayerAttribution, NeuronAttribution, renamed
from llm_attr.attr.forms import keeps_form
from llm_attr.attr.perturbation import FeatureGame, PerturbationAttribution
from llm_attr.core.estimators.leave_one_out import GroupsLeftOut, LeaveOneOut
from llm_attr.core.estimators.windows_left_out import WindowsLeftOut
from llm_attr.core.game.driver import estimated
from llm_attr.core.game.features import Features
from llm_attr.core.game.hierarchy import Nested
from llm_attr.core.game.ledger import Ledger
from llm_attr.core.game.windows import Strides, Windows, WindowShapes
from llm_attr.core.problem import Problem
from llm_attr.core.registry import registered
from llm_attr.typing import Baselines, NeuronSelector, Target, TensorOrTensors


@registered
class FeatureAblation(PerturbationAttribution):
    """Leaves each feature out once and reports how much the output falls.

    `attribution_i = f(x) - f(x with feature i at its baseline)`

    Source: M. D. Zeiler and R. Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014, section 4.2.

    Example:
        >>> import torch
        >>> from llm_attr.attr import FeatureAblation
        >>> FeatureAblation(lambda x: x.sum(1)).attribute(torch.tensor([[1.0, 2.0]]))
        tensor([[1., 2.]])
    """

    estimator = LeaveOneOut
    keeps_output_axes = False

    @keeps_form
    def attribute(
        self,
        inputs: TensorOrTensors,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        feature_mask: TensorOrTensors | None = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        *,
        ledger: Ledger | None = None,
    ) -> Any:
        """The decrease of the output for each feature.

        Shared arguments: see `PerturbationAttribution`.

        Returns:
            Shaped like the inputs if the model has one output per example; otherwise `(outputs, *features)` per input,
            with all entries of the output in one axis. In the units and dtype of the output.

        Raises:
            InvalidShape: baselines or feature_mask do not fit the inputs.
            InvalidTarget: the target does not fit the output.
        """
        game = self._game(inputs, baselines, target, additional_forward_args, feature_mask, alike=False)
        return game.attributions(LeaveOneOut(), perturbations_per_eval, show_progress, ledger=ledger)

    def attribute_future(
        self,
        inputs: TensorOrTensors,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        feature_mask: TensorOrTensors | None = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
    ) -> torch.futures.Future[TensorOrTensors]:
        """The promise of `attribute`'s result, for a forward function that returns a `torch.futures.Future`.

        Makes all calls at once; with `perturbations_per_eval=None` one coalition per call.
        """
        game = self._game(inputs, baselines, target, additional_forward_args, feature_mask, alike=False)
        return game.promise(LeaveOneOut(), perturbations_per_eval, show_progress)


@registered
class GroupAblation(PerturbationAttribution):
    """Leaves each group of features out once, on every level of a hierarchy, and reports how much the output falls.

    `loss_g = f(x) - f(x with the group at its baseline)`. A feature gets the loss of the smallest group that contains
    it, divided equally among the group's features, so that these sum to the loss of their group.

    For text: `explain(model, prompt, method="group_ablation", groups=[[0, 1], [2, 3, 4]])` with the numbers of the
    units.

    Source: F. Liu, N. Kandpal and C. Raffel, AttriBoT: A Bag of Tricks for Efficiently Approximating Leave-One-Out
    Context Attribution, 2024 (hierarchical attribution).

    Example:
        >>> import torch
        >>> from llm_attr.attr import GroupAblation
        >>> x = torch.tensor([[2.0, 4.0, 3.0]])
        >>> GroupAblation(lambda x: x.sum(1)).attribute(x, groups=[[0, 1], 2], return_losses=True)
        (tensor([[3., 3., 3.]]), tensor([[6., 3.]]))
    """

    estimator = GroupsLeftOut

    @keeps_form
    def attribute(
        self,
        inputs: TensorOrTensors,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        feature_mask: TensorOrTensors | None = None,
        groups: Nested | None = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        *,
        return_losses: bool = False,
        ledger: Ledger | None = None,
    ) -> Any:
        """The share of each feature in the loss of its group.

        Shared arguments: see `PerturbationAttribution`.

        Args:
            groups: Nested lists of feature numbers, such as `[[0, 1], [[2, 3], [4, 5]]]`, each feature once. Each inner
                list is a group, and so is each number next to a list. Features are numbered from 0 in the order of
                their numbers in the mask; without a mask, in the order of positions. None: each feature is a group.
            return_losses: Whether to return the loss of each group as well.

        Returns:
            Shaped like the inputs if the model has one output per example; otherwise `(*output.shape, *features)` per
            input. In units of the output.

            With `return_losses` also the losses `(outputs, groups)`: groups in the order of `groups`, each before its
            subgroups.

        Raises:
            InvalidValue: the groups do not contain each feature once.
        """
        game = self._game(inputs, baselines, target, additional_forward_args, feature_mask)
        estimator = GroupsLeftOut(groups)
        played, shape = game.play(estimator, perturbations_per_eval, show_progress, ledger=ledger)
        values = game.in_form(estimated(estimator.estimate, played.coalitions, played.values).values, shape)
        return (values, estimator.losses(played.values).T) if return_losses else values


@registered
class Occlusion(PerturbationAttribution):
    """Covers the inputs with a sliding window and reports how much the output falls.

    `attribution_p = mean over the windows w that contain position p of f(x) - f(x with w at its baseline)`

    The first window starts at index 0 of each axis, the others one stride apart until the axis is covered; the last one
    may be cut off. In text a window covers consecutive units: `LLMAttribution` and `explain` take `window` (units, 2 by
    default) and `stride` (1 by default) as options of the method.

    Source: M. D. Zeiler and R. Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014, section 4.2.

    Example:
        >>> import torch
        >>> from llm_attr.attr import Occlusion
        >>> Occlusion(lambda x: x.sum(1)).attribute(torch.tensor([[1.0, 2.0, 4.0]]), (2,))
        tensor([[3.0000, 4.5000, 6.0000]])
    """

    estimator = WindowsLeftOut
    keeps_output_axes = False

    @keeps_form
    def attribute(
        self,
        inputs: TensorOrTensors,
        sliding_window_shapes: WindowShapes,
        strides: Strides = None,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        *,
        ledger: Ledger | None = None,
    ) -> Any:
        """The mean decrease of the output over the windows that contain each position.

        Shared arguments: see `PerturbationAttribution`.

        Args:
            sliding_window_shapes: The size of the window along each axis after the batch, such as `(3, 8, 8)`; `()` for
                inputs `(batch,)`; an int for all axes; for several inputs a tuple of these, one per input.
            strides: The stride of the window, an int for all axes or a tuple with one per axis; for several inputs a
                tuple of these, one per input. None: 1.

        Returns:
            As for `FeatureAblation`, in units of the output; integer outputs give floating-point means.

        Raises:
            InvalidShape: the windows do not match the inputs in number, or a window does not match its input's axes.
            InvalidValue: a window is larger than its input, or its stride leaves positions out.
            InvalidTarget: the target does not fit the output.
        """
        problem = Problem.of(self.forward_func, inputs, baselines, target, additional_forward_args, alike=False)
        game = FeatureGame(self, problem, Windows.of(sliding_window_shapes, strides, problem.inputs))
        return game.attributions(LeaveOneOut(), perturbations_per_eval, show_progress, ledger=ledger)


@registered
class LayerFeatureAblation(LayerAttribution, PerturbationAttribution):
    """Leaves each neuron of a layer out once and reports how much the output falls.

    `attribution_j = f(u) - f(u with neuron j at its baseline)`, with the activations u of the layer

    Source: M. D. Zeiler and R. Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014, section 4.2,
    at a layer.

    Example:
        >>> import torch
        >>> from llm_attr.attr import LayerFeatureAblation
        >>> layer = torch.nn.Identity()
        >>> ablation = LayerFeatureAblation(lambda x: (layer(x) * torch.tensor([1.0, -2.0])).sum(1), layer)
        >>> ablation.attribute(torch.tensor([[4.0, 3.0]]))
        tensor([[ 4., -6.]])
    """

    attributor = FeatureAblation
    """The method applied at the layer."""

    keeps_output_axes = False

    def attribute(
        self,
        inputs: TensorOrTensors,
        layer_baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        layer_mask: TensorOrTensors | None = None,
        attribute_to_layer_input: bool = False,
        perturbations_per_eval: int | None = None,
        *,
        show_progress: bool = False,
    ) -> Any:
        """The decrease of the output for each neuron of the layer.

        Shared arguments: see `PerturbationAttribution`.

        Args:
            layer_baselines: The absent state of the layer's tensors: None (zero), a number or tensor that broadcasts to
                each of them, or a tuple with one per tensor.
            layer_mask: Like `feature_mask`, for the layer's tensors.
            attribute_to_layer_input: Whether to ablate the layer's input instead of its output.

        Returns:
            As for `LayerAttribution`, in units of the output; as for `FeatureAblation` if the model does not have one
            output per example.

        Raises:
            InvalidShape: layer_baselines or layer_mask do not fit the layer.
            InvalidType: the layer's tensors are not floating-point.
            LayerNotReached: the forward pass does not reach the layer.
        """
        absent = 0 if layer_baselines is None else layer_baselines
        of_inputs = Problem.of(self.forward_func, inputs, None, target, additional_forward_args)
        problem = of_inputs.cut_at(self._sites(attribute_to_layer_input), absent)
        game = FeatureGame(self, problem, Features.of(layer_mask, problem.inputs, "layer_mask"))
        return game.attributions(LeaveOneOut(), perturbations_per_eval, show_progress)


@registered
class NeuronFeatureAblation(NeuronAttribution, PerturbationAttribution):
    """Leaves each feature out once and reports how much a neuron falls.

    `attribution_i = n(x) - n(x with feature i at its baseline)`, with the neuron n

    Source: M. D. Zeiler and R. Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014, section 4.2,
    of a neuron.

    Example:
        >>> import torch
        >>> from llm_attr.attr import NeuronFeatureAblation
        >>> layer = torch.nn.Identity()
        >>> NeuronFeatureAblation(lambda x: layer(x).sum(1), layer).attribute(torch.tensor([[4.0, 3.0]]), 1)
        tensor([[0., 3.]])
    """

    keeps_output_axes = False

    @renamed(neuron_index="neuron_selector")
    def attribute(
        self,
        inputs: TensorOrTensors,
        neuron_selector: NeuronSelector,
        baselines: Baselines = None,
        additional_forward_args: Any = None,
        feature_mask: TensorOrTensors | None = None,
        attribute_to_neuron_input: bool = False,
        perturbations_per_eval: int | None = None,
        *,
        show_progress: bool = False,
    ) -> Any:
        """The decrease of the neuron for each feature.

        Shared arguments: see `PerturbationAttribution` and `NeuronAttribution`.

        Args:
            attribute_to_neuron_input: Whether the neuron belongs to the layer's input instead of its output.

        Returns:
            Shaped like the inputs, in units of the neuron; as for `FeatureAblation` if the selector does not give one
            number per example.

        Raises:
            InvalidShape: baselines or feature_mask do not fit the inputs.
            InvalidTarget: the selector does not fit the layer.
            LayerNotReached: the forward pass does not reach the layer.
        """
        problem = self._problem(inputs, neuron_selector, baselines, additional_forward_args, attribute_to_neuron_input)
        game = FeatureGame(self, problem, Features.of(feature_mask, problem.inputs))
        return game.attributions(LeaveOneOut(), perturbations_per_eval, show_progress)
