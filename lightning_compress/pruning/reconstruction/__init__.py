"""Refitting the weights of layers whose inputs were removed, one way a file."""
