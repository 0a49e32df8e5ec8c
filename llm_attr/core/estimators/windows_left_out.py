"""Windows of consecutive features left out."""

from __future__ import annotations

from collections.abc import Iterator

from llm_attr.core.estimators.leave_one_out import LeaveOneOut
from llm_attr.core.game.estimate import Estimate
from llm_attr.core.game.windows import Windows, covering
from llm_attr.errors import InvalidShape, InvalidValue, positive
from llm_attr.typing import Coalitions, Values


class WindowsLeftOut:
    """What is lost when a window of consecutive features is left out; each feature gets the mean over its windows.

    `phi_i = mean over the windows w with i in w of v(all) - v(all without w)`

    Args:
        window: How many features a window is over; of fewer, all of them.
        stride: How many features further the next one begins.

    Raises:
        InvalidValue: one is no whole number from 1, or the stride leaves features out.
    """

    fixed = True
    n_samples = 1

    def __init__(self, window: int = 2, stride: int = 1) -> None:
        positive("stride", stride)
        if stride > positive("window", window):
            raise InvalidValue(f"stride {stride} is larger than the window {window} and would leave features out")
        self._window, self._stride = window, stride

    def evaluations(self, features: int, budget: int | None = None) -> int:
        """One for each window and one for all features."""
        return LeaveOneOut().evaluations(self._over(features).count)

    def least(self, features: int) -> int:
        """All of them."""
        return self.evaluations(features)

    def rounds(self, features: int) -> Iterator[Coalitions]:
        """The full coalition, then each window left out."""
        windows = self._over(features)
        for block in LeaveOneOut().rounds(windows.count):
            yield windows.present(block, 0, block.device)[:, 0].expand(-1, features)

    def estimate(self, coalitions: Coalitions, values: Values) -> Estimate:
        """`(features, outputs)`."""
        windows, losses = self._over(coalitions.shape[1]), LeaveOneOut().estimate(coalitions, values).values
        if len(losses) != windows.count:
            raise InvalidShape(f"the design has {windows.count} windows; got the values of {len(losses)}")
        return Estimate(windows.spread(losses)[0].T)

    def _over(self, features: int) -> Windows:
        return Windows(((covering(features, max(1, min(self._window, features)), self._stride),),))
