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
# # Many prompts of one template
#
# Which part of a template carries the answer, on average? `explain_dataset` explains every row of a data set and averages over
# them, with SmolLM2 (135 million parameters).

# %% tags=["remove-cell"]
# %config InlineBackend.figure_formats = ["retina"]

# %%
import llm_attr

lm = llm_attr.load_model("smollm2-135m")

# %% [markdown]
# ## Rows
#
# Each row fills the slots of the template. The column `target` is the answer; `id` is carried along.

# %%
template = (
    "{name} is a {job} from {city}. Question: In which city does {name} live? Answer:"
)
people = [
    ("Aksel", "baker"),
    ("Signe", "doctor"),
    ("Mads", "teacher"),
    ("Freja", "painter"),
]
cities = ["Berlin", "Paris", "Rome"]
rows = [
    {"id": f"{name}-{city}", "name": name, "job": job, "city": city, "target": f" {city}"}
    for name, job in people
    for city in cities
]

# %%
from pathlib import Path
from tempfile import mkdtemp

out = Path(mkdtemp()) / "run"
run = llm_attr.explain_dataset(lm, rows[:8], out, template=template)
run

# %% [markdown]
# The same call goes on where it was, and refuses other arguments in the same folder.

# %%
from llm_attr.errors import OtherRun

try:
    llm_attr.explain_dataset(lm, rows, out, template=template)
except OtherRun as error:
    print(error)

# %%
run = llm_attr.explain_dataset(lm, rows, out.with_name("all"), template=template)

# %% [markdown]
# ## Averages
#
# For each row the attributions of a slot are added up; the mean over the rows has a 95 % interval.

# %%
print(run.summary("slot"))

# %%
run.summary("slot", interval="bootstrap").plot()[0]

# %% [markdown]
# ## One row
#
# `result` gives what `explain` gives for a single prompt.

# %%
print(run.row(5))
run.result(5)

# %% [markdown]
# ## The files
#
# Results are Parquet files, which other tools read as well.

# %%
import pyarrow.parquet as pq

table = pq.read_table(out.with_name("all") / "rows")
table.select(["id", "attr_row", "attr_seq", "attr_answer"]).to_pandas().head(3)
