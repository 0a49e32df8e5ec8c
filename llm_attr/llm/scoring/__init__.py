"""Scores of many variants of a prompt in few token positions."""
