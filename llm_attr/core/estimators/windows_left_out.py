"""Windows of consecutive features left out."""

from __future__ import annotations

from collections.abc import Iterator

from llm_attr.core.estimators.base import BaseEstimator
from llm_attr.core.estimators.leave_one_out import LeaveOneOut
from llm_attr.core.game.estimate import Estimate
from llm_attr.core.game.windows import Windows, covering
from llm_attr.errors import InvalidShape, InvalidValue, positive
from llm_attr.typing import Coalitions, Values


class WindowsLeftOut(BaseEstimator):
    """The decrease of the value when a window of consecutive features is left out, averaged over a feature's windows.

    `phi_i = mean over the windows w with i in w of v(all) - v(all without w)`

    Args:
        window: Features per window; at most all of them.
        stride: Features between the starts of consecutive windows.

    Raises:
        InvalidValue: one is not a positive integer, or the stride leaves features out.
    """

    def __init__(self, window: int = 2, stride: int = 1) -> None:
        positive("stride", stride)
        if stride > positive("window", window):
            raise InvalidValue(f"stride {stride} is larger than the window {window} and would leave features out")
        self._window, self._stride = window, stride

    def size(self, features: int) -> int:
        return self._over(features).count + 1

    def rounds(self, features: int) -> Iterator[Coalitions]:
        """The full coalition, then each window left out."""
        windows = self._over(features)
        for block in LeaveOneOut().rounds(windows.count):
            yield windows.present(block, 0, block.device)[:, 0].expand(-1, features)

    def estimate(self, coalitions: Coalitions, values: Values) -> Estimate:
        windows, losses = self._over(coalitions.shape[1]), LeaveOneOut().estimate(coalitions, values).values
        if len(losses) != windows.count:
            raise InvalidShape(f"the design has {windows.count} windows; got the values of {len(losses)}")
        return Estimate(windows.spread(losses)[0].T)

    def _over(self, features: int) -> Windows:
        return Windows(((covering(features, max(1, min(self._window, features)), self._stride),),))
