"""Attributions of texts: in the terminal, as HTML pages, as matplotlib figures and in notebooks."""
