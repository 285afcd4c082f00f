"""How numbers are rounded: one class a file, for weights or for activations, each a ``Transform`` with a bit width."""
