"""Concepts in language models, given by sentences: directions, their significance, and steering with them."""
