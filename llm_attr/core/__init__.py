"""Engines: they know torch, and no public class, tokenizer or plot."""
