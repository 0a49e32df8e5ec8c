"""Eigenvalues of an operator from its products with a few vectors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llm_attr.core.operators.base import Operator
from llm_attr.core.tensors import exact


@dataclass(frozen=True)
class Eigenpairs:
    """Some eigenvalues of a symmetric operator, ascending, with their eigenvectors.

    Attributes:
        values: `(pairs,)`.
        vectors: `(size, pairs)`.
    """

    values: Tensor
    vectors: Tensor

    @classmethod
    def of(cls, operator: Operator) -> Eigenpairs:
        """All of them."""
        matrix = operator.dense()
        values, vectors = torch.linalg.eigh(exact(matrix))
        return cls(values.to(matrix), vectors.to(matrix))

    def inverse_root(self, shift: float, least: float, most: int) -> Tensor:
        """R, `(size, directions)`, with `R R^T` the inverse of `operator + shift` on its largest eigenvalues.

        Args:
            shift: Added to each eigenvalue.
            least: Smaller shifted eigenvalues are left out.
            most: The most directions to keep.
        """
        shifted = self.values + shift
        kept = torch.arange(len(shifted), device=shifted.device)[shifted > least]
        kept = kept[shifted[kept].argsort(descending=True)][:most]
        return self.vectors[:, kept] / shifted[kept].sqrt()


def arnoldi(operator: Operator, start: Tensor, steps: int, tolerance: float) -> Eigenpairs:
    """The eigenpairs of an operator restricted to the span of `start, A start, A A start, ...` (Ritz pairs).

    Args:
        operator: A symmetric operator.
        start: `(size,)`.
        steps: The most products.
        tolerance: It ends early at a residual whose norm is below.

    Source: A. Schioppa et al., Scaling Up Influence Functions, AAAI 2022, algorithm 1.
    """
    basis = torch.empty(min(steps, operator.size), operator.size, dtype=operator.dtype, device=operator.device)
    small = basis.new_zeros(len(basis), len(basis))
    basis[0] = start / start.norm()
    count = 0
    while count < len(basis):
        residual = operator @ basis[count]
        count += 1
        for _ in range(2):  # once is not enough in floating point
            along = basis[:count] @ residual
            residual = residual - basis[:count].T @ along
            small[:count, count - 1] += along
        size = residual.norm()
        if size < tolerance or count == len(basis):
            break
        small[count, count - 1] = size
        basis[count] = residual / size
    basis, restricted = basis[:count], exact(small[:count, :count])
    values, vectors = torch.linalg.eigh((restricted + restricted.T) / 2)
    return Eigenpairs(values.to(basis), basis.T @ vectors.to(basis))
