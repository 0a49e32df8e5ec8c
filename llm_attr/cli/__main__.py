"""`python -m llm_attr.cli` is the command `llm-attr`."""

from llm_attr.cli import main

main()
