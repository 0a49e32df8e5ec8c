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
# # Gallery
#
# Every plot in the library, next to the code that made it. They share one colour scale: orange speaks for the output, blue against it, and
# zero has the background colour; unsigned magnitudes are violet. Blue and orange can be told apart with every common form of colour
# blindness, and every plot says where its scale ends.
#
# ## Texts
#
# Four sentences, a question, and the answer of a small real model.

# %% tags=["remove-cell"]
# %config InlineBackend.figure_formats = ["retina"]

# %%
import llm_attr
from llm_attr import Prompt
from llm_attr.viz.figure import show

lm = llm_attr.load_model("smollm2-135m")
text = "Aksel lives in Odense. He repairs violins. He has a dog. In summer he sails. What does Aksel repair?"
prompt, answer = [{"role": "user", "content": text}], "Aksel repairs violins."
result = llm_attr.explain(lm, prompt, target=answer)

# %% [markdown]
# ### The page
#
# What a notebook shows for a result, and what `result.to_html("page.html")` writes. You can click tokens of the answer, on the page and
# here. `result.widget()` is the Jupyter version, which reports clicks to Python.

# %%
result

# %% [markdown]
# ### In the terminal

# %%
result.show(width=100)

# %% [markdown]
# ### Bars

# %%
figure, axes = result.plot_seq_attr(show=True)
# %% [markdown]
# With the standard errors of a sampled method:

# %%
sampled = llm_attr.explain(
    lm, prompt, target=answer, method="kernel_shap", n_samples=20, seed=0
)
figure, axes = sampled.plot_seq_attr(show=True)
# %% [markdown]
# ### Heat map
#
# Units of the prompt across, tokens of the answer down.

# %%
words = llm_attr.explain(lm, Prompt(prompt, unit="word"), target=answer)
figure, axes = words.plot_token_attr(show=True)
# %% [markdown]
# ### Levels
#
# One text at two levels: sentences and words, each explained separately.

# %%
figure, axes = result.plot_levels(words, show=True)
# %% [markdown]
# ### Documents

# %%
notes = {
    "mill.txt": "The mill was built in 1854. It ground rye for the villages.",
    "people.txt": "Aksel Holm bought it in 1987. He repairs violins in it.",
}
documents = llm_attr.explain(
    lm,
    Prompt.from_documents("Who repairs violins?", notes, unit="sentence"),
    target="Aksel Holm.",
)
documents

# %% [markdown]
# ### Interactions
#
# How much more, or less, two sentences contribute together than separately.

# %%
pairs = llm_attr.explain(lm, prompt, target=answer, method="pairwise_interactions")
figure, axes = pairs.plot_interactions(show=True)
# %% [markdown]
# ### Curves with their areas
#
# How the answer's log-probability falls while sentences are removed, those of the largest attribution first: what
# [metrics](../metrics.md) of faithfulness are made of. The result judges other attributions of the same sentences too.

# %%
import torch

from llm_attr import metrics
from llm_attr.viz.curves import plot_curves

gradient = llm_attr.explain(
    lm, prompt, target=answer, method="input_x_gradient", token_rows=False
)
rows = {"leave-one-out": result.seq_attr, "input × gradient": gradient.seq_attr}
scores = {name: metrics.deletion(row, result) for name, row in rows.items()}
figure, axes = plot_curves(
    list(scores),
    scores["leave-one-out"].fractions,
    torch.cat([score.curve for score in scores.values()]),
    value_name="log-probability of the answer (nats)",
)
show(figure)

# %% [markdown]
# ### Comparison
#
# Several methods on the same units, and how well they agree.

# %%
methods = ("feature_ablation", "shapley_values", "input_x_gradient")
comparison = llm_attr.compare(
    [llm_attr.explain(lm, prompt, target=answer, method=name) for name in methods]
)
comparison

# %%
figure, axes = comparison.plot(show=True)
# %% [markdown]
# ### Records of a classifier
#
# Captum's table of texts with their predictions.

# %%
from llm_attr.attr import visualization

record = visualization.VisualizationDataRecord(
    word_attributions=[0.0, 0.1, 0.9, 0.05, -0.6, 0.0],
    pred_prob=0.93,
    pred_class="pleased",
    true_class="pleased",
    attr_class="pleased",
    attr_score=0.45,
    raw_input_ids=["[CLS]", "a", "wonderful", "but", "noisy", "[SEP]"],
    convergence_score=0.001,
)
visualization.visualize_text([record])

# %% [markdown]
# ## Images
#
# Why does EfficientNet-Lite0 see an espresso? Grad-CAM of its last convolution, brought to the size of the photograph.

# %%
import numpy as np
import torch
from llm_attr.attr import LayerAttribution, LayerGradCam, Lime
from models import image_classifier  # examples/models.py
from superpixels import superpixels  # examples/superpixels.py

from image_classifier import as_input, photograph  # examples/image_classifier.py

model, photo = image_classifier(), photograph()
image = as_input(photo)
picture = np.asarray(photo.resize((224, 224)))
cam = LayerGradCam(model, model.head).attribute(image, target=967)
cam = LayerAttribution.interpolate(cam, (224, 224), "bilinear")
cam = cam[0].permute(1, 2, 0).detach().numpy()

# %% [markdown]
# ### Ways to draw an attribution

# %%
for methods, signs in (
    (["original_image", "heat_map", "blended_heat_map"], ["all", "all", "all"]),
    (
        ["masked_image", "alpha_scaling", "heat_map"],
        ["positive", "positive", "absolute_value"],
    ),
):
    figure, axes = visualization.visualize_image_attr_multiple(
        cam,
        picture,
        methods=methods,
        signs=signs,
        titles=[f"{method}, {sign}" for method, sign in zip(methods, signs, strict=True)],
        fig_size=(9, 3.9),
        show_colorbar=True,
        use_pyplot=False,
    )
    show(figure)

# %% [markdown]
# ### Superpixels

# %%
from llm_attr.viz.overlay import overlay_segments

patches = superpixels(photo, 224)
mask = torch.from_numpy(patches)[None, None]
lime = (
    Lime(model)
    .attribute(image, target=967, feature_mask=mask, n_samples=120, seed=0)[0, 0]
    .numpy()
)
values = [float(lime[patches == number].mean()) for number in range(patches.max() + 1)]
figure, axes = overlay_segments(picture, patches, values)
show(figure)

# %% [markdown]
# ## Time series
#
# Two channels of 120 steps. What is explained looks at a crest of the first and a trough of the second.

# %%
steps = np.linspace(0, 6 * np.pi, 120)
series = np.stack([np.sin(steps), 0.6 * np.cos(0.7 * steps)], axis=1)
weights = np.stack(
    [np.exp(-((steps - 8) ** 2) / 2), -np.exp(-((steps - 14) ** 2) / 3)], axis=1
)
figure, axes = visualization.visualize_timeseries_attr(
    series * weights,
    series,
    method="overlay_individual",
    sign="all",
    fig_size=(8, 4.2),
    show_colorbar=True,
    use_pyplot=False,
)
show(figure)

# %%
figure, axes = visualization.visualize_timeseries_attr(
    series * weights,
    series,
    method="colored_graph",
    sign="all",
    fig_size=(8, 4.2),
    show_colorbar=True,
    use_pyplot=False,
)
show(figure)

# %% [markdown]
# ## Tables
#
# ### Bars of several methods

# %%
from llm_attr.attr import FeatureAblation, KernelShap, ShapleyValues
from llm_attr.viz.tabular import plot_bars, plot_waterfall

from tabular import patients, trained  # examples/tabular.py

torch.manual_seed(0)
train, test = patients()
network = trained(train)
patient = test.measured[[int(network(test.measured).argmax())]]
names = [
    "age",
    "sex",
    "BMI",
    "blood\npressure",
    "total\nchol.",
    "LDL",
    "HDL",
    "chol. / HDL",
    "trigly-\ncerides",
    "glucose",
]
exact = ShapleyValues(network).attribute(patient)[0].detach()
ablated = FeatureAblation(network).attribute(patient)[0].detach()
kernel, stderr = (
    each[0]
    for each in KernelShap(network).attribute(
        patient, n_samples=60, seed=0, return_stderr=True
    )
)
figure, axes = plot_bars(
    names,
    torch.stack([ablated, kernel]),
    torch.stack([torch.full_like(stderr, torch.nan), stderr]),
    series=["FeatureAblation", "KernelShap, 60 evaluations"],
    reference=exact,
    reference_name="exact Shapley values",
    value_name="disease score",
)
show(figure)

# %% [markdown]
# ### Waterfall
#
# From the mean patient's forecast to this one's.

# %%
with torch.no_grad():
    base, output = network(torch.zeros(1, 10)).item(), network(patient).item()
figure, axes = plot_waterfall(
    [name.replace("-\n", "").replace("\n", " ") for name in names],
    exact,
    base,
    output=output,
    most=8,
    base_name="mean patient",
    output_name="this patient",
    value_name="disease score",
)
show(figure)

# %% [markdown]
# ### Gates over training
#
# [Gates](../gates.md) learn together with a network which of the ten measurements it needs.

# %%
import gates as diabetes  # examples/gates.py

from llm_attr.viz.ladder import plot_attack_ladder, plot_gates

torch.manual_seed(0)
measured, score, held_out, held_out_score = diabetes.patients()
forecast, gates, seen = diabetes.trained(measured, score)
figure, axes = plot_gates(seen, diabetes.NAMES, step_name="epoch", size=(8, 4.2))
show(figure)

# %% [markdown]
# ### Attacks of growing strength
#
# The error of that network on patients it has not seen, under [attacks](../robust.md).

# %%
strengths, errors, unattacked = diabetes.ladder(forecast, gates, held_out, held_out_score)
figure, axes = plot_attack_ladder(
    strengths,
    errors,
    original=unattacked,
    strength_name="largest change of a measurement (standard deviations)",
    metric_name="mean error (standard deviations)",
    size=(8, 4.2),
)
show(figure)

# %% [markdown]
# ## The colour scale

# %%
from llm_attr.viz.colour import DARK, LIGHT, colormap
from matplotlib import pyplot as plt

figure, axes = plt.subplots(2, 1, figsize=(8, 1.6), layout="constrained")
for place, (name, scale) in zip(axes, {"LIGHT": LIGHT, "DARK": DARK}.items(), strict=True):
    place.imshow(
        np.linspace(-1, 1, 257)[None], colormap(scale), aspect="auto", extent=(-1, 1, 0, 1)
    )
    place.set(yticks=[], xticks=[-1, 0, 1], ylabel=name)
