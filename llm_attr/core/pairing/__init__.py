"""Pairings: an embedding of each example and a product of two, for the influence of training examples."""
