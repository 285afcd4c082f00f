"""Mask patterns: the weights that are dropped together, one class a file."""
