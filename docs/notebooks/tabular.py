# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A network on a table
#
# Ten measurements of diabetes patients, and a disease score a year later (the data come with scikit-learn). A small network learns to
# predict the score; then one patient's prediction is explained, by methods whose error can be checked: ten features are few enough for
# exact Shapley values.

# %% tags=["remove-cell"]
# %config InlineBackend.figure_formats = ["retina"]

# %%
import torch

from tabular import patients, trained  # examples/tabular.py

torch.manual_seed(0)
train, test = patients()
model = trained(train)  # (batch, 10) -> (batch,)

with torch.no_grad():
    scores, mean = model(test.measured), model(torch.zeros(1, 10)).item()
explained = (
    1
    - (scores - test.score).square().sum() / (test.score - test.score.mean()).square().sum()
)
print(f"explains {explained:.0%} of the variance of patients it has not seen")

# %% [markdown]
# The patient with the highest forecast, against the mean patient: measurements are in standard deviations, so the mean patient is 0,
# the default baseline.

# %%
from llm_attr.attr import FeatureAblation, IntegratedGradients, KernelShap, ShapleyValues

patient = test.measured[[int(scores.argmax())]]
exact = ShapleyValues(model).attribute(patient)[0].detach()
print(
    f"forecast {scores.max():.1f}, of the mean patient {mean:.1f}; Shapley values sum to {exact.sum():.1f}"
)

# %% [markdown]
# ## From the mean patient to this one

# %%
from llm_attr.viz.figure import show
from llm_attr.viz.tabular import plot_bars, plot_waterfall

names = [
    *("age", "sex", "BMI", "blood pressure", "total cholesterol"),
    *("LDL", "HDL", "cholesterol / HDL", "triglycerides", "glucose"),
]
figure, axes = plot_waterfall(
    names,
    exact,
    mean,
    output=scores.max().item(),
    base_name="mean patient",
    output_name="this patient",
    value_name="disease score",
)
show(figure)

# %% [markdown]
# ## Four methods
#
# `KernelShap` estimates the same values from 100 evaluations instead of 1,024, with standard errors. Integrated gradients follow the
# straight line from the mean patient. Feature ablation sets one measurement at a time back to the mean, so it misses joint effects.

# %%
sampled, stderr = (
    each[0]
    for each in KernelShap(model).attribute(
        patient, n_samples=100, seed=0, return_stderr=True
    )
)
found = {
    "exact Shapley values": exact,
    "KernelShap": sampled,
    "IntegratedGradients": IntegratedGradients(model).attribute(patient)[0].detach(),
    "FeatureAblation": FeatureAblation(model).attribute(patient)[0].detach(),
}
for name, values in found.items():
    print(
        f"{name:21} sum {values.sum():7.2f}   off by {(values - exact).abs().max():5.2f} at most"
    )

# %%
figure, axes = plot_bars(
    names,
    torch.stack([found["KernelShap"], found["FeatureAblation"]]),
    torch.stack([stderr, torch.full_like(stderr, torch.nan)]),
    series=["KernelShap, 100 evaluations", "FeatureAblation, 11 evaluations"],
    reference=exact,
    reference_name="exact Shapley values",
    value_name="disease score",
)
show(figure)

# %%
inside = ((sampled - exact).abs() <= 1.96 * stderr).sum()
print(f"{inside} of 10 exact values lie in the 95 % interval of KernelShap")

# %% [markdown]
# The attributions of `FeatureAblation` do not sum to the change of the prediction, and nothing makes them. The other three divide the
# change among the features.
