from __future__ import annotations

from collections.abc import Iterator

import pytest

from llm_attr.llm.model.language_model import LanguageModel
from tests.llm.engines.servers import Served, serving
from tests.zoo import tiny


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny("llama")


@pytest.fixture(scope="module")
def server(lm: LanguageModel) -> Iterator[Served]:
    with serving(lm) as served:
        yield served
