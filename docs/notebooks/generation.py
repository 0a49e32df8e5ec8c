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
# Sentences, a part of the answer, another answer, documents, an error that is small enough, and what all of it costs; on SmolLM2 with
# 135 million parameters.

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
# The answer says two things. `for_output` takes one of them and runs no model; a text, a pattern, a slice of tokens, a sentence
# or a path into JSON says which.

# %%
for part in ("Odense", "violins"):
    strongest = result.for_output(part).top(1)[0]
    print(f"{part}: {strongest.text!r} with {strongest.attribution:+.2f} nats")

# %% [markdown]
# ## Why this, and not that
#
# With a `foil` the difference of two answers is explained: what speaks for violins rather than for dogs. What both
# have in common falls out.

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
# A prompt for retrieval is a question over named documents. Two of these name the librarian.

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
# Each of the two can be spared as long as the other is there, so leaving out one at a time finds little. Shapley values also leave
# out both.
#
# ## Until it is sure
#
# `until="top 2 stable"` samples until the two strongest stand apart from all others by their 95 % intervals; `budget=` bounds it, in
# evaluations, token positions, passes or seconds. What it can cost at most is known beforehand:

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
# `unit="word"` or `"token"` looks closer. Leaving out one word at a time:

# %%
words = llm_attr.explain(
    lm, [{"role": "user", "content": text}], target=answer, unit="word"
).for_output("violins")
words

# %% [markdown]
# Gradient methods need a few passes for any number of units, but ask another question: how the answer changes when an embedding
# moves a little.

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
# The model is nearly sure of its word, so small moves change little: the gradient is almost flat there, while without the word "violins"
# the answer is far less likely. Gradient methods are quick with thousands of tokens; what they say is about sensitivity.
#
# ## What is explained
#
# The scalar is the log-probability of the answer unless `scalar` says otherwise: a probability, a logit, the entropy of the model's
# next-token distribution, its margin, or a function of your own. Several come from the same passes.

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
# How the numbers were made stands in every result:

# %%
{
    name: result.provenance[name]
    for name in ("method", "model", "dtype", "scoring", "variants", "passes", "positions")
}
