"""Shared by the tests of the language-model side."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.zoo import quiet


@pytest.fixture(scope="session", autouse=True)
def _quiet_and_alone() -> Iterator[None]:
    """Without advice about tiny models, and on one thread: more cost time where the tensors are small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with quiet():
        yield
    torch.set_num_threads(threads)
