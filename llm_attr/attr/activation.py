"""The activations of a layer."""

from __future__ import annotations

from typing import Any

from llm_attr.attr.base import LayerAttribution
from llm_attr.core.evaluator import Evaluator
from llm_attr.core.problem import Problem
from llm_attr.core.registry import registered
from llm_attr.core.tensors import in_slots
from llm_attr.typing import TensorOrTensors


@registered
class LayerActivation(LayerAttribution):
    """Returns the activations of a layer for the inputs.

    `attribution_i = u_i`

    The forward function may return anything.

    Source: J. Yosinski et al., Understanding Neural Networks Through Deep Visualization, 2015, section 2.

    Example:
        >>> import torch
        >>> from llm_attr.attr import LayerActivation
        >>> model = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Linear(2, 1))
        >>> LayerActivation(model, model[0]).attribute(torch.tensor([[-1.0, 2.0]]))
        tensor([[0., 2.]])
    """

    takes_layers = True

    multiplies_by_inputs = True

    def attribute(
        self,
        inputs: TensorOrTensors,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
    ) -> Any:
        """The activations of the layer; the inputs may be token ids.

        Shared arguments: see `Attribution`.

        Args:
            attribute_to_layer_input: Whether to return the input of the layer instead of its output.

        Returns:
            See `LayerAttribution`; in the dtype of the layer, which may be an integer type.

        Raises:
            LayerNotReached: the forward pass does not reach the layer.
            SeveralCalls: the forward pass calls the layer several times, and no `Site` says which call is meant.
        """
        problem = Problem.of(self.forward_func, inputs, None, None, additional_forward_args)
        sites = self._sites(attribute_to_layer_input)
        evaluator = Evaluator(f"{self.get_name()} attribution", 1, device=problem.inputs[0].device)
        [(tensors, slots)] = evaluator.run(1, 1, lambda start, stop: problem.read(sites))
        evaluator.advance(1)
        forms = in_slots(tensors, slots)
        return forms if isinstance(self.layer, list | tuple) else forms[0]
