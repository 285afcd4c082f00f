"""Placements of activation quantizers, one a file."""
