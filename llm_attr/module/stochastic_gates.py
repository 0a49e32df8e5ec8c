"""Gates between 0 and 1 for features, learnt together with a penalty for every gate that is open."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import log

import torch
from torch import Tensor, nn

from llm_attr.core.tensors import broadcasts
from llm_attr.errors import InvalidShape, InvalidType, InvalidValue, UnknownName, positive

_REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": Tensor.sum,
    "mean": Tensor.mean,
    "none": lambda probabilities: probabilities,
}


class StochasticGatesBase(nn.Module, ABC):
    """Multiplies the features of each example by gates, and counts the gates that are open.

    In training mode every example draws its own gates; in evaluation mode a gate has one value for all examples. The
    second output is to be added to the loss: it is small where few gates are open.

    Args:
        n_gates: The number of gates.
        mask: Whole numbers `0 ... n_gates - 1` that broadcast to an example `(*features)`: the gate of each element.
            None: each of exactly `n_gates` elements has its own.
        reg_weight: What the penalty is multiplied by.
        reg_reduction: `sum` or `mean` of the probabilities that the gates are open, or `none` for all of them.

    Raises:
        InvalidValue: a gate of the mask is missing, or a number is out of its range.
        InvalidType: the mask does not hold whole numbers.
        UnknownName: there is no such reduction.

    Subclasses have `sample_gate_values(batch_size)`, `expected_gate_values()` and `active_probabilities()`.
    """

    mask: Tensor | None

    def __init__(
        self, n_gates: int, mask: Tensor | None = None, reg_weight: float = 1.0, reg_reduction: str = "sum"
    ) -> None:
        super().__init__()
        self.n_gates = positive("n_gates", n_gates)
        if reg_reduction not in _REDUCTIONS:
            raise UnknownName("reg_reduction", reg_reduction, _REDUCTIONS)
        self.reg_weight, self.reg_reduction = reg_weight, reg_reduction
        self.register_buffer("mask", None if mask is None else _checked(mask, n_gates).clone())

    @abstractmethod
    def sample_gate_values(self, batch_size: int) -> Tensor:
        """`(batch, gates)`: a draw of the gates for each example, not yet cut to [0, 1]."""

    @abstractmethod
    def expected_gate_values(self) -> Tensor:
        """`(gates,)`: the gates in evaluation mode, not yet cut to [0, 1]."""

    @abstractmethod
    def active_probabilities(self) -> Tensor:
        """`(gates,)`: how probable it is that a draw of the gate is above 0."""

    def forward(self, input_tensor: Tensor) -> tuple[Tensor, Tensor]:
        """The gated input and the penalty.

        Args:
            input_tensor: `(batch, *features)`.

        Returns:
            The input times its gates, of its shape; and the penalty, a single number, or `(gates,)` unreduced.

        Raises:
            InvalidShape: the input has no axis of features, or does not fit the gates.
        """
        if input_tensor.dim() < 2:
            raise InvalidShape(f"the input must be (batch, *features); got the shape {tuple(input_tensor.shape)}")
        gates = self.sample_gate_values(len(input_tensor)) if self.training else self.expected_gate_values()[None]
        by_element = self._by_element(gates.clamp(0, 1), input_tensor.shape)
        gated = input_tensor * (by_element.to(input_tensor) if input_tensor.is_floating_point() else by_element)
        return gated, _REDUCTIONS[self.reg_reduction](self.active_probabilities()) * self.reg_weight

    def get_gate_values(self, clamp: bool = True) -> Tensor:
        """`(gates,)`: the gates in evaluation mode, without a graph.

        Args:
            clamp: Whether to cut them to [0, 1].
        """
        values = self.expected_gate_values().detach()
        return values.clamp(0, 1) if clamp else values.clone()

    def get_gate_active_probs(self) -> Tensor:
        """`(gates,)`: how probable it is that each gate is open, without a graph."""
        return self.active_probabilities().detach()

    def _by_element(self, gates: Tensor, shape: torch.Size) -> Tensor:
        """`(batch, gates)` -> the gate of each element of the input, or of each of its places."""
        if self.mask is None:
            if shape[1:].numel() != self.n_gates:
                raise InvalidShape(
                    f"without a mask each example must have one element for each of the {self.n_gates} gates; got "
                    f"examples of shape {tuple(shape[1:])}"
                )
            return gates.view(-1, *shape[1:])
        mask = self.mask
        while mask.dim() > len(shape) - 1 and mask.shape[0] == 1:
            mask = mask[0]
        if not broadcasts(mask.shape, shape[1:]):
            raise InvalidShape(
                f"the mask of shape {tuple(self.mask.shape)} must broadcast to an example of shape {tuple(shape[1:])}"
            )
        return gates[:, mask].view(len(gates), *(1,) * (len(shape) - 1 - mask.dim()), *mask.shape)


class BinaryConcreteStochasticGates(StochasticGatesBase):
    """Gates with a stretched binary concrete distribution: mostly 0 or 1, and differentiable.

    `s = sigmoid((log u - log(1 - u) + log_alpha) / temperature)` with u uniform, and
    `gate = clamp(lower_bound + s (upper_bound - lower_bound), 0, 1)`; in evaluation mode `s = sigmoid(log_alpha)`.
    `P(gate > 0) = sigmoid(log_alpha - temperature log(-lower_bound / upper_bound))`.

    Shared arguments: see `StochasticGatesBase`.

    Args:
        temperature: Above 0 and at most 1; gates are nearer to 0 and 1 where it is low.
        lower_bound: Below 0.
        upper_bound: Above 1.
        eps: u is drawn from `[eps, 1 - eps]`.

    Source: C. Louizos, M. Welling and D. P. Kingma, Learning Sparse Neural Networks through L0 Regularization, ICLR
    2018, equations 10 to 13.

    Example:
        >>> import torch
        >>> gates = BinaryConcreteStochasticGates(3).eval()
        >>> gated, penalty = gates(torch.ones(2, 3))
        >>> gated.shape, penalty.shape
        (torch.Size([2, 3]), torch.Size([]))
    """

    def __init__(
        self,
        n_gates: int,
        mask: Tensor | None = None,
        reg_weight: float = 1.0,
        temperature: float = 2.0 / 3,
        lower_bound: float = -0.1,
        upper_bound: float = 1.1,
        eps: float = 1e-8,
        reg_reduction: str = "sum",
    ) -> None:
        super().__init__(n_gates, mask, reg_weight, reg_reduction)
        if not 0 < temperature <= 1:
            raise InvalidValue(f"temperature must be above 0 and at most 1; got {temperature!r}")
        if not lower_bound < 0 or not upper_bound > 1:
            raise InvalidValue(
                f"lower_bound must be below 0 and upper_bound above 1; got {lower_bound!r} and {upper_bound!r}"
            )
        if not 0 < eps < 0.5:
            raise InvalidValue(f"eps must be between 0 and 0.5; got {eps!r}")
        self.temperature, self.lower_bound, self.upper_bound, self.eps = temperature, lower_bound, upper_bound, eps
        self.log_alpha_param = nn.Parameter(
            torch.empty(n_gates, dtype=torch.get_default_dtype(), device=torch.get_default_device()).normal_(0, 0.01)
        )

    def sample_gate_values(self, batch_size: int) -> Tensor:
        """See `StochasticGatesBase`; draws uniform numbers `(batch, gates)` from torch's stream."""
        uniform = torch.empty(
            batch_size, self.n_gates, dtype=torch.get_default_dtype(), device=self.log_alpha_param.device
        )
        uniform.uniform_(self.eps, 1 - self.eps)
        logit = uniform.log() - (1 - uniform).log()
        return self._stretched(torch.sigmoid((logit + self.log_alpha_param) / self.temperature))

    def expected_gate_values(self) -> Tensor:
        """See `StochasticGatesBase`."""
        return self._stretched(torch.sigmoid(self.log_alpha_param))

    def active_probabilities(self) -> Tensor:
        """See `StochasticGatesBase`."""
        return torch.sigmoid(self.log_alpha_param - self.temperature * log(-self.lower_bound / self.upper_bound))

    def _stretched(self, share: Tensor) -> Tensor:
        return share * (self.upper_bound - self.lower_bound) + self.lower_bound


class GaussianStochasticGates(StochasticGatesBase):
    """Gates that are normal numbers cut to [0, 1].

    `gate = clamp(mu + std noise, 0, 1)` with standard normal noise; in evaluation mode without it.
    `P(gate > 0) = Phi(mu / std)`.

    Shared arguments: see `StochasticGatesBase`.

    Args:
        std: The standard deviation of the noise.

    Source: Y. Yamada et al., Feature Selection using Stochastic Gates, ICML 2020, equations 3 and 5.

    Example:
        >>> import torch
        >>> gates = GaussianStochasticGates(2, mask=torch.tensor([0, 0, 1])).eval()
        >>> gates(torch.ones(1, 3))[0].shape
        torch.Size([1, 3])
    """

    def __init__(
        self,
        n_gates: int,
        mask: Tensor | None = None,
        reg_weight: float = 1.0,
        std: float = 0.5,
        reg_reduction: str = "sum",
    ) -> None:
        super().__init__(n_gates, mask, reg_weight, reg_reduction)
        if not 0 < std < float("inf"):
            raise InvalidValue(f"std must be above 0; got {std!r}")
        self.std = std
        self.mu = nn.Parameter(
            torch.empty(n_gates, dtype=torch.get_default_dtype(), device=torch.get_default_device()).normal_(0.5, 0.01)
        )

    def sample_gate_values(self, batch_size: int) -> Tensor:
        """See `StochasticGatesBase`; draws normal numbers `(batch, gates)` from torch's stream."""
        noise = torch.empty(batch_size, self.n_gates, dtype=torch.get_default_dtype(), device=self.mu.device)
        return self.mu + noise.normal_(0, self.std)

    def expected_gate_values(self) -> Tensor:
        """See `StochasticGatesBase`."""
        return self.mu

    def active_probabilities(self) -> Tensor:
        """See `StochasticGatesBase`."""
        return torch.special.ndtr(self.mu / self.std)


def _checked(mask: Tensor, n_gates: int) -> Tensor:
    if not isinstance(mask, Tensor) or mask.is_floating_point() or mask.is_complex() or mask.dtype == torch.bool:
        given = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise InvalidType(f"mask must be a tensor of whole numbers, the gate of each element; got {given}")
    known = mask.unique()
    if known.tolist() != list(range(n_gates)):
        missing = sorted(set(range(n_gates)) - set(known.tolist()))
        what = f"without {missing}" if missing else f"up to {int(known.max())}"
        raise InvalidValue(f"mask must hold every gate 0 to {n_gates - 1} and no other; got a mask {what}")
    return mask.long()
