"""Rounding rules of the runtimes, one a file."""
