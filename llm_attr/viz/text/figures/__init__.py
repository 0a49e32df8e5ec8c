"""Figures of text attributions by matplotlib."""
