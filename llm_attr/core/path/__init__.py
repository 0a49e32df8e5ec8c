"""Integrating a gradient along a path."""
