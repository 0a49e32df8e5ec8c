"""The language model and what is known of it."""
