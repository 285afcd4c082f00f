"""Quantizers of weights and activations, one class a file; each is a ``Transform`` with a bit width."""
