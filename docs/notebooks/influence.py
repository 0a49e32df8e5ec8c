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
# # Which training examples are behind an answer?
#
# A network learns handwritten digits, some of them with a wrong label. Its checkpoints tell which training examples stand behind a
# prediction, and which labels to look at first. What the methods are and when they mislead: [Influence](../influence.md).

# %% tags=["remove-cell"]
# %config InlineBackend.figure_formats = ["retina"]

# %% [markdown]
# ## A training run and its checkpoints
#
# 1,500 digits of 8 × 8 pixels; 5 % of them get another label. The last 297 digits, with their true labels, are for testing.

# %%
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

torch.manual_seed(0)
data = load_digits()
images, true = torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)
given = true[:1500].clone()
flipped = torch.randperm(1500)[:75]
given[flipped] = (given[flipped] + torch.randint(1, 10, (75,))) % 10

model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
states = []
for epoch in range(1, 13):
    for rows in torch.randperm(1500).split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[rows]), given[rows]).backward()
        optimizer.step()
    if epoch % 4 == 0:
        states.append({name: value.clone() for name, value in model.state_dict().items()})

model.eval()
right = (model(images[1500:]).argmax(1) == true[1500:]).float().mean()
print(f"{right:.1%} of the test digits are right")

# %% [markdown]
# ## Wrong labels first
#
# A wrong label agrees with no other example, so it is learned from itself alone: its influence on itself is large.

# %%
from llm_attr.influence import TracInCP


def load(model, state):  # without it, checkpoints are files of torch.save
    model.load_state_dict(state)
    return 0.1  # the learning rate


train = TensorDataset(images[:1500], given)
loss = nn.CrossEntropyLoss(reduction="none")
tracin = TracInCP(model, train, states, load, loss_fn=loss, batch_size=256)
order = tracin.self_influence().argsort(descending=True)
found = torch.isin(order, flipped).cumsum(0)
print(f"{found[149]} of 75 wrong labels are among the first 150 of 1500")

# %% [markdown]
# ## Proponents and opponents
#
# The test digits with the largest loss, and the training digits that lowered their loss (proponents) and raised it (opponents). A title in
# red is a flipped label.

# %%
import matplotlib.pyplot as plt

worst = 1500 + loss(model(images[1500:]), true[1500:]).argsort(descending=True)[:3]
tests = (images[worst], true[worst])
proponents = tracin.influence(tests, k=3)
opponents = tracin.influence(tests, k=3, proponents=False)
guess = model(images[worst]).argmax(1)

figure, grid = plt.subplots(3, 7, figsize=(9, 4.6), layout="constrained")
for row, axes in enumerate(grid):
    axes[0].set_title(f"{true[worst[row]]}, taken for {guess[row]}")
    numbers = [
        int(worst[row]),
        *proponents.indices[row].tolist(),
        *opponents.indices[row].tolist(),
    ]
    for place, (ax, number) in enumerate(zip(axes, numbers, strict=True)):
        ax.imshow(images[number].view(8, 8), cmap="gray_r")
        ax.set_xticks([])
        ax.set_yticks([])
        if place:
            side = "for" if place < 4 else "against"
            wrong = given[number] != true[number]
            ax.set_title(f"{side}: {given[number]}", color="C3" if wrong else "black")

# %% [markdown]
# ## The last layer alone
#
# `TracInCPFast` looks at the last layer and needs no backward pass through the rest. Its scores are others; on this network the
# rankings agree in large part.

# %%
from llm_attr.influence import TracInCPFast

last = TracInCPFast(
    model,
    model[2],
    train,
    states,
    load,
    nn.CrossEntropyLoss(reduction="sum"),
    batch_size=256,
)
tests = (images[1500:1600], true[1500:1600])
ten, fast = (method.influence(tests, k=10).indices for method in (tracin, last))
shared = (
    sum(len(set(a) & set(b)) for a, b in zip(ten.tolist(), fast.tolist(), strict=True))
    / 1000
)
print(f"{shared:.0%} of the ten strongest proponents are the same")

# %% [markdown]
# ## Does it matter?
#
# A score is a claim about training, and training can be done again: without the 150 digits with the largest influence on themselves, and
# without 150 at random.


# %%
def accuracy(rows):
    torch.manual_seed(1)
    again = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(again.parameters(), 0.1, momentum=0.9)
    for _ in range(12):
        for batch in rows[torch.randperm(len(rows))].split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(again(images[batch]), given[batch]).backward()
            optimizer.step()
    return (again(images[1500:]).argmax(1) == true[1500:]).float().mean()


for name, rows in {
    "all": order,
    "without the first 150": order[150:],
    "without any 150": torch.randperm(1500)[150:],
}.items():
    print(f"{name:22} {accuracy(rows):.1%}")
