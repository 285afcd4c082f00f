"""Low-rank factorizations of layers, one a file."""
