"""Coders of quantized weights, one class a file."""
