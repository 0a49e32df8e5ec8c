"""Gradients of an answer."""
