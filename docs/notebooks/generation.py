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
# # Explaining a generation
#
# Sentences, parts of an answer, contrasts, documents, sampling until the error is small enough, and the cost of it all, with SmolLM2 (135
# million parameters).

# %% tags=["remove-cell"]
# %config InlineBackend.figure_formats = ["retina"]

# %%
import llm_attr
from llm_attr import Prompt

lm = llm_attr.load_model("smollm2-135m")

# %% [markdown]
# ## Sentences
#
# A chat goes in as messages. They are rendered once by the model's own chat template; what the template adds is never a unit.

# %%
text = "Aksel lives in Odense. He repairs violins. He has a dog. Where does Aksel live, and what does he repair?"
answer = "Aksel lives in Odense and he repairs violins."
result = llm_attr.explain(lm, [{"role": "user", "content": text}], target=answer)
result

# %% [markdown]
# ## A part of the answer
#
# The answer says two things. `for_output` selects one of them without running the model, by a text, a pattern, a slice of tokens, a
# sentence, or a path into JSON.

# %%
for part in ("Odense", "violins"):
    strongest = result.for_output(part).top(1)[0]
    print(f"{part}: {strongest.text!r} with {strongest.attribution:+.2f} nats")

# %% [markdown]
# ## Why this rather than that
#
# A `foil` explains the difference between two answers: what speaks for violins rather than for dogs. What both have in common cancels.

# %%
contrast = llm_attr.explain(
    lm,
    [{"role": "user", "content": text}],
    target=answer,
    foil="Aksel lives in Odense and he repairs dogs.",
)
figure, axes = contrast.plot_seq_attr(show=True)
# %% [markdown]
# ## Documents
#
# A retrieval prompt is a question about named documents. Two of these name the librarian.

# %%
documents = {
    "hours": "The library is open from ten to six. On Mondays it stays closed.",
    "history": "The library was founded in 1891 by the shipowner Mads Holm.",
    "staff": "The head librarian is Signe Dahl. She has worked here for twelve years.",
    "building": "The roof was renewed in 2009. Its windows face the sea.",
    "newsletter": "Our head librarian is Signe Dahl. On Saturday she reads to children.",
}
retrieval = Prompt.from_documents("Who is the head librarian?", documents)
alone = llm_attr.explain(lm, retrieval, gen_args={"max_new_tokens": 8, "do_sample": False})
print(alone.output_text)
figure, axes = alone.for_output("Signe Dahl").plot_seq_attr(show=True)
# %% [markdown]
# Neither of the two is missed while the other is present, so leaving out one at a time shows little. Shapley values also leave out both.
#
# ## Sample until the answer is clear
#
# `until="top 2 stable"` samples until the 95 % intervals separate the two strongest documents from all others; `budget=` sets a limit, in
# evaluations, token positions, passes or seconds. The maximum cost is known beforehand:

# %%
shapley = {
    "method": "kernel_shap",
    "target": alone.output_ids,
    "until": "top 2 stable",
    "seed": 0,
}
print(llm_attr.plan(lm, retrieval, budget=32, **shapley))

# %%
together = llm_attr.explain(lm, retrieval, budget=32, **shapley).for_output("Signe Dahl")
print(f"{together.provenance['variants']} variants of the prompt")
spared = alone.for_output("Signe Dahl").seq_attr
for name, value, error, alone_value in zip(
    documents, together.seq_attr, together.stderr, spared, strict=True
):
    print(f"{name:10} {value:+6.2f} ± {error:.2f} nats   left out alone {alone_value:+.2f}")

# %%
together

# %% [markdown]
# ## Smaller units, and gradients
#
# `unit="word"` and `"token"` give more detail. Leaving out one word at a time:

# %%
words = llm_attr.explain(
    lm, [{"role": "user", "content": text}], target=answer, unit="word"
).for_output("violins")
words

# %% [markdown]
# Gradient methods need only a few passes for any number of units, but they answer a different question: how the answer changes when an
# embedding moves slightly.

# %%
gradient = llm_attr.explain(
    lm,
    [{"role": "user", "content": text}],
    target=answer,
    unit="word",
    method="input_x_gradient",
).for_output("violins")
print("probabilities:", [round(value, 4) for value in words.output_probs.tolist()])
for name, found in (("left out", words), ("gradient", gradient)):
    print(f"{name}: at most {found.seq_attr.abs().max():.2f} nats")

# %% [markdown]
# The model is almost certain of its word, so small moves change little and the gradient is nearly flat, yet without the word "violins" the
# answer is far less likely. Gradient methods are fast even with thousands of tokens; what they measure is sensitivity.
#
# ## What is explained
#
# By default the explained scalar is the log-probability of the answer. `scalar` selects another: a probability, a logit, the entropy of the
# model's next-token distribution, its margin, or your own function. Several scalars share the same passes.

# %%
entropy, margin = llm_attr.explain(
    lm, [{"role": "user", "content": text}], target=answer, scalar=["entropy", "margin"]
)
for found in (entropy, margin):
    print(
        found.provenance["attr_target"],
        [round(value, 2) for value in found.seq_attr.tolist()],
    )

# %% [markdown]
# Every result records how it was computed:

# %%
{
    name: result.provenance[name]
    for name in ("method", "model", "dtype", "scoring", "variants", "passes", "positions")
}
