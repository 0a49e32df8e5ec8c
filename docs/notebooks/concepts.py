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
# # Does a network see strokes in a digit?
#
# A small CNN learns handwritten digits. A concept is given by pictures: a bar across, or a bar upright, drawn over other digits. TCAV asks whether
# a digit becomes more likely as the activations move towards the concept, and whether that is more than chance.
# Background: [Concepts](../concepts.md).

# %% tags=["remove-cell"]
# %config InlineBackend.figure_formats = ["retina"]

# %%
import torch
from sklearn.datasets import load_digits
from torch import nn

torch.manual_seed(0)
data = load_digits()
images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
labels = torch.tensor(data.target)
model = nn.Sequential(
    nn.Conv2d(1, 8, 3, padding=1),
    nn.ReLU(),
    nn.Conv2d(8, 16, 3, padding=1),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(1024, 10),
)
optimizer = torch.optim.Adam(model.parameters(), 3e-3)
for _ in range(6):
    for rows in torch.randperm(1500).split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimizer.step()
model.eval()
right = (model(images[1500:]).argmax(1) == labels[1500:]).float().mean()
print(f"{right:.1%} of the test digits are right")

# %% [markdown]
# ## Concepts are examples
#
# Both concepts are drawn over digits of all kinds, so that they differ from the random sets in the bar alone.

# %%
import matplotlib.pyplot as plt
from torch.utils.data import DataLoader

from llm_attr.concept import TCAV, Concept


def drawn(count):
    return images[torch.randint(1500, (count,))].clone()


def across(pictures):
    for picture, row in zip(
        pictures, torch.randint(1, 7, (len(pictures),)).tolist(), strict=True
    ):
        picture[0, row, 1:7] = 1
    return pictures


def upright(pictures):
    for picture, column in zip(
        pictures, torch.randint(1, 7, (len(pictures),)).tolist(), strict=True
    ):
        picture[0, 1:7, column] = 1
    return pictures


def concept(number, name, pictures):
    return Concept(number, name, DataLoader(pictures, batch_size=100))


bars = [
    concept(0, "bar across", across(drawn(100))),
    concept(1, "bar upright", upright(drawn(100))),
]
randoms = [concept(10 + n, f"random {n}", drawn(100)) for n in range(10)]

figure, grid = plt.subplots(3, 6, figsize=(6, 3), layout="constrained")
for axes, each in zip(grid, [*bars, randoms[0]], strict=True):
    axes[0].set_title(each.name, loc="left")
    for ax, picture in zip(axes, next(iter(each.data_iter)), strict=False):
        ax.imshow(picture[0], cmap="gray_r")
        ax.axis("off")

# %% [markdown]
# ## Are they more than chance?
#
# `significance` tells each concept from each of ten random sets, and random sets from each other. The target is the digit 4, asked about
# fours that the network has not seen.

# %%
from tempfile import mkdtemp

fours = images[1500:][labels[1500:] == 4]
tcav = TCAV(model, ["1", "3"], save_path=mkdtemp(), seed=0)
found = tcav.significance(fours, bars, randoms, target=4)
print(found)

# %%
found.plot(title="Do bars speak for a 4?")[0]

# %% [markdown]
# ## Can the layer tell the concept at all?
#
# A direction means something only if it separates examples that it was not fitted to.

# %%
for key in ("0-10", "1-10", "10-11"):
    rows = {layer: float(cav.stats["accs"]) for layer, cav in tcav.cavs[key].items()}
    print(key, {layer: f"{share:.0%}" for layer, share in rows.items()})

# %% [markdown]
# ## Another classifier, another random set
#
# The direction is that of a classifier. What stays with another one is the finding; what changes is the classifier's. Here the logistic
# regression calls bars of both kinds significant at the first layer, and the support vector machine above neither. So these examples do not
# settle it: more of them, and more random sets, are the next step, not the table with the star.

# %%
from llm_attr.concept import ProbeClassifier

probe = TCAV(model, ["1", "3"], "probe", ProbeClassifier("logistic"), save_path=mkdtemp())
print(probe.significance(fours, bars, randoms, target=4))

# %% [markdown]
# ## Sentences instead of pictures
#
# `TextTCAV` does the same for a language model, with concepts given by lists of sentences, and `steer` moves its answer along one:
# [Concepts](../concepts.md).
