"""Rows of data sets, and the prompts that are made of them."""
