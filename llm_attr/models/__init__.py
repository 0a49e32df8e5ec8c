"""Embedded real models, for demos and tests."""
