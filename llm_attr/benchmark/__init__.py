"""How well methods find what carried an answer, on the items of `llm_attr.data` whose truth is planted.

from llm_attr.benchmark import run

found = run(lm, ["feature_ablation", "kernel_shap"], items=llm_attr.data.items(count=20))
print(found.to_markdown())
"""

from llm_attr.benchmark.record import Benchmark, Record, Row
from llm_attr.benchmark.runner import BASELINES, METHODS, run

__all__ = ["BASELINES", "METHODS", "Benchmark", "Record", "Row", "run"]
