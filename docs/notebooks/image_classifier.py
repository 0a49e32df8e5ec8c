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
# # An image classifier, asked in four ways
#
# Why does a convolutional network see an espresso in a photograph? GradientShap, integrated gradients, Grad-CAM and occlusion each give an
# answer. They ask different questions, so their maps differ. The network is EfficientNet-Lite0 with its ImageNet weights.

# %% tags=["remove-cell"]
# %config InlineBackend.figure_formats = ["retina"]

# %%
import torch
from models import image_classifier  # examples/models.py

from image_classifier import NAMES, as_input, photograph  # examples/image_classifier.py

torch.manual_seed(0)
model, photo = image_classifier(), photograph()
image = as_input(photo)  # (1, 3, 224, 224), about -1 to 1; 0, the baseline, is grey

with torch.no_grad():
    probability, target = (each.item() for each in model(image).softmax(1).max(1))
print(f"{NAMES[target]}, probability {probability:.3f}")
photo.resize((300, 300))

# %% [markdown]
# ## Grad-CAM
#
# Grad-CAM weights each channel of the last convolution by the mean gradient of the class's logit. The 7 × 7 map is resized to the size of
# the image.

# %%
from llm_attr.attr import (
    GradientShap,
    IntegratedGradients,
    LayerAttribution,
    LayerGradCam,
    Occlusion,
)

cam = LayerGradCam(model, model.head).attribute(image, target=target)
upsampled = LayerAttribution.interpolate(cam, (224, 224), "bilinear")
print(tuple(cam.shape), "->", tuple(upsampled.shape))

# %% [markdown]
# ## Integrated gradients
#
# Integrates the gradient along the path from a grey image to the photograph. The attributions sum to the change of the logit; the delta is
# how far they are from it.

# %%
integrated, delta = IntegratedGradients(model).attribute(
    image, target=target, n_steps=32, return_convergence_delta=True
)
with torch.no_grad():
    change = (model(image) - model(torch.zeros_like(image)))[0, target].item()
print(
    f"sum {integrated.sum():.2f}, change of the logit {change:.2f}, delta {delta.item():+.3f}"
)

# %% [markdown]
# ## GradientShap
#
# The expected gradient at random points between the noisy photograph and baselines drawn at random: here grey, black and white.

# %%
baselines = torch.tensor([0.0, -1.0, 1.0]).view(3, 1, 1, 1).expand(3, 3, 224, 224)
shap = GradientShap(model).attribute(
    image, baselines, n_samples=24, stdevs=0.1, target=target
)

# %% [markdown]
# ## Occlusion
#
# Covers 32 × 32 pixels at a time with grey and measures how far the logit falls. It needs no gradient.

# %%
occlusion = Occlusion(model).attribute(
    image,
    sliding_window_shapes=(3, 32, 32),
    strides=(3, 16, 16),
    perturbations_per_eval=8,
    target=target,
)

# %% [markdown]
# ## Side by side
#
# Pixel attributions are summed over colours and over squares of 8 × 8 pixels to make them readable. Each map has its own scale, shown below
# it: orange speaks for the class, blue against it.

# %%
import numpy as np
from llm_attr.attr import visualization
from matplotlib import pyplot as plt
from torch.nn.functional import avg_pool2d, interpolate


def as_map(attribution):
    """(1, channels, 224, 224) -> (224, 224, 1): summed over channels."""
    return attribution.sum(1)[0, :, :, None].detach().numpy()


def squares(attribution):
    """The same, and summed over squares of 8 x 8 pixels."""
    return as_map(interpolate(64 * avg_pool2d(attribution, 8), (224, 224)))


picture = np.asarray(photo.resize((224, 224)))
maps = {
    "Grad-CAM": as_map(upsampled),
    "Occlusion": as_map(occlusion[:, :1]),
    "Integrated gradients": squares(integrated),
    "GradientShap": squares(shap),
}
figure, axes = plt.subplots(2, 2, figsize=(8, 9), layout="constrained")
for place, (name, values) in zip(axes.flat, maps.items(), strict=True):
    visualization.visualize_image_attr(
        values,
        picture,
        method="blended_heat_map",
        sign="all",
        alpha_overlay=0.75,
        plt_fig_axis=(figure, place),
        show_colorbar=True,
        title=name,
        use_pyplot=False,
    )

# %% [markdown]
# ## Where they agree
#
# How much of the positive attribution is within the rim of the cup? The rim, an ellipse, holds about a fifth of the pixels.

# %%
rows, columns = np.mgrid[:224, :224]
rim = ((columns - 107) / 65) ** 2 + ((rows - 62) / 52) ** 2 < 1
print(f"of the pixels: {rim.mean():.0%}")
for name, values in maps.items():
    positive = values[..., 0].clip(min=0)
    print(f"of {name}: {positive[rim].sum() / positive.sum():.0%}")

# %% [markdown]
# Grad-CAM and occlusion look at regions; the other two follow the gradient pixel by pixel, so edges count most. They also depend on the
# baseline: against grey, a grey pixel has no integrated gradient.
