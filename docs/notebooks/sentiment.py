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
# # Which words sound pleased?
#
# A text classifier reads token ids, and ids have no gradient. `LayerIntegratedGradients` moves the output of the embedding
# layer instead, and attributes the prediction to it. The classifier is MiniLM, a six-layer BERT with real weights, with a small head that
# is trained below on 32 sentences: a toy, but one that has learned something.

# %% tags=["remove-cell"]
# %config InlineBackend.figure_formats = ["retina"]

# %%
import torch
from models import sentence_encoder  # examples/models.py
from text_classifier import (
    DISPLEASED,
    PLEASED,
    Classifier,
    train,
)  # examples/text_classifier.py

torch.manual_seed(0)
encoder, tokenizer = sentence_encoder()
model = Classifier(encoder).eval()

examples = tokenizer([*PLEASED, *DISPLEASED], padding=True, return_tensors="pt")
labels = torch.tensor([1.0] * len(PLEASED) + [0.0] * len(DISPLEASED))
train(model, examples["input_ids"], examples["attention_mask"], labels)
print(f"pleased: {PLEASED[0]}\ndispleased: {DISPLEASED[0]}")

# %% [markdown]
# ## The question
#
# Three sentences that the head has not seen. The baseline is the same sequence with every token except `[CLS]` and `[SEP]` replaced by
# padding: a sentence of the same length without content.

# %%
from llm_attr.attr import LayerIntegratedGradients

sentences = [
    "The actors were brilliant and I laughed all the way home.",
    "We waited an hour and the food was cold and tasteless.",
    "A tiny, noisy room, but the breakfast was wonderful.",
]
encoding = tokenizer(sentences, padding=True, return_tensors="pt")
ids, mask = encoding["input_ids"], encoding["attention_mask"]
kept = (ids == tokenizer.cls_token_id) | (ids == tokenizer.sep_token_id)
baseline = torch.where(kept, ids, tokenizer.pad_token_id)

method = LayerIntegratedGradients(model, encoder.embeddings.word_embeddings)
found, delta = method.attribute(
    ids, baseline, additional_forward_args=mask, return_convergence_delta=True
)
values = found.sum(
    -1
)  # (sentences, tokens): the attribution of a token is the sum over its embedding
print(tuple(found.shape), "->", tuple(values.shape))

# %% [markdown]
# ## Is the sum right?
#
# The attributions of a sentence sum to its log-odds less those of the baseline, up to the convergence delta:

# %%
with torch.no_grad():
    scores, padding = model(ids, mask), model(baseline, mask)
for sentence, score, base, total, gap in zip(
    sentences, scores, padding, values.sum(1), delta, strict=True
):
    print(
        f"log-odds {score:+.2f}, of padding {base:+.2f}, sum {total:+.2f}, delta {gap:+.4f}  {sentence}"
    )

# %% [markdown]
# ## The picture
#
# `visualize_text` shows records in the same columns as Captum.

# %%
from llm_attr.attr import visualization

names = ("displeased", "pleased")
records = []
for row, (score, length) in enumerate(
    zip(scores.tolist(), mask.sum(1).tolist(), strict=True)
):
    answer = int(score > 0)
    records.append(
        visualization.VisualizationDataRecord(
            word_attributions=values[row, :length] / values[row].abs().max(),
            pred_prob=torch.tensor(abs(score)).sigmoid().item(),
            pred_class=names[answer],
            true_class=names[(1, 0, 1)[row]],
            attr_class="pleased",
            attr_score=values[row].sum().item(),
            raw_input_ids=tokenizer.convert_ids_to_tokens(ids[row, :length].tolist()),
            convergence_score=delta[row].item(),
        )
    )
visualization.visualize_text(records)

# %% [markdown]
# The third sentence is mixed, and the attributions separate the two sides. The strongest token in either direction:

# %%
for row in range(len(sentences)):
    tokens = tokenizer.convert_ids_to_tokens(ids[row].tolist())
    best, worst = values[row].argmax(), values[row].argmin()
    print(
        f"for {tokens[best]!r} {values[row, best]:+.2f}, against {tokens[worst]!r} {values[row, worst]:+.2f}"
    )

# %% [markdown]
# `[CLS]` and `[SEP]` are the same in input and baseline, so their embeddings have exactly no attribution. What the model computes
# at their positions is credited to the words it comes from.
