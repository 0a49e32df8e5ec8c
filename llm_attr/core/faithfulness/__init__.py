"""Measuring how well attributions describe a model."""
