"""Occlusion: what is lost when a window of the inputs is covered."""

from __future__ import annotations

from typing import Any

from llm_attr.attr.perturbation import PerturbationAttribution
from llm_attr.core.estimators.leave_one_out import LeaveOneOut
from llm_attr.core.estimators.windows_left_out import WindowsLeftOut
from llm_attr.core.game.ledger import Ledger
from llm_attr.core.game.windows import Strides, Windows, WindowShapes
from llm_attr.core.problem import Problem
from llm_attr.core.registry import registered
from llm_attr.typing import Baselines, Target, TensorOrTensors


@registered
class Occlusion(PerturbationAttribution):
    """Covers the inputs with a sliding window and reports how much the output falls.

    `attribution_p = mean over the windows w over position p of f(x) - f(x with w at its baseline)`

    The first window lies at index 0 of each axis, the next ones a stride apart until the axis is covered; the last one
    may be cut off. In a text a window is over consecutive units: `LLMAttribution` and `explain` take `window` (units,
    2 by default) and `stride` (1 by default) as the method's options.

    Source: M. D. Zeiler and R. Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014, section 4.2.

    Example:
        >>> import torch
        >>> from llm_attr.attr import Occlusion
        >>> Occlusion(lambda x: x.sum(1)).attribute(torch.tensor([[1.0, 2.0, 4.0]]), (2,))
        tensor([[3.0000, 4.5000, 6.0000]])
    """

    estimator = WindowsLeftOut

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
        """The mean loss of output over the windows of each position.

        Args:
            inputs: See `Attribution`.
            sliding_window_shapes: The size of the window along each axis after the batch, as `(3, 8, 8)`; `()` for
                inputs `(batch,)`; a number stands for all axes; for several inputs a tuple with one of these for each.
            strides: The step of the window, one for all axes or a tuple with one for each; for several inputs a tuple
                with one of these for each. None: 1.
            baselines: See `Attribution`.
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.
            perturbations_per_eval: See `PerturbationAttribution`.
            show_progress: See `Attribution`.
            ledger: See `PerturbationAttribution`.

        Returns:
            As for `FeatureAblation`, in units of the output; whole outputs give floating-point means.

        Raises:
            InvalidShape: there is not one window for each input, or not one number for each axis.
            InvalidValue: a window does not fit into its input, or its stride leaves positions out.
            InvalidTarget: the target does not fit the output.
        """
        problem = Problem.of(self.forward_func, inputs, baselines, target, additional_forward_args, alike=False)
        windows = Windows.of(sliding_window_shapes, strides, problem.inputs)
        playing = self._playing(problem, windows, LeaveOneOut(), perturbations_per_eval, show_progress, ledger=ledger)
        return playing.answer()
