"""Directions of concepts in activations: reading, fitting, judging."""
