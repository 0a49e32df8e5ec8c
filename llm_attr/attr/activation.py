"""What a layer gives, as it is."""

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
    """Gives the activations of a layer for the inputs.

    `attribution_i = u_i`

    What the forward function itself answers does not matter here and may be of any type.

    Source: J. Yosinski et al., Understanding Neural Networks Through Deep Visualization, 2015, section 2.

    Example:
        >>> import torch
        >>> from llm_attr.attr import LayerActivation
        >>> model = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Linear(2, 1))
        >>> LayerActivation(model, model[0]).attribute(torch.tensor([[-1.0, 2.0]]))
        tensor([[0., 2.]])
    """

    takes_layers = True

    @property
    def multiplies_by_inputs(self) -> bool:
        """Activations are no derivatives."""
        return True

    def attribute(
        self,
        inputs: TensorOrTensors,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
    ) -> Any:
        """The layer's activations.

        Args:
            inputs: See `Attribution`; token ids too.
            additional_forward_args: See `Attribution`.
            attribute_to_layer_input: Whether what the layer is given is meant, not what it gives.

        Returns:
            See `LayerAttribution`; of the layer's type, which may be whole numbers.

        Raises:
            LayerNotReached: the forward pass does not come to the layer.
            SeveralCalls: it comes there several times, and no `Site` says which of them is meant.
        """
        problem = Problem.of(self.forward_func, inputs, None, None, additional_forward_args)
        sites = self._sites(attribute_to_layer_input)
        evaluator = Evaluator(f"{self.get_name()} attribution", 1, device=problem.inputs[0].device)
        [(tensors, slots)] = evaluator.run(1, 1, lambda start, stop: problem.read(sites))
        evaluator.advance(1)
        forms = in_slots(tensors, slots)
        return forms if isinstance(self.layer, list | tuple) else forms[0]
