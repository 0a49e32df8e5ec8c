"""Explanations of whole data sets: rows, shards, a manifest, and launchers."""
