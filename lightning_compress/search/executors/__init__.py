"""Executors: where candidates are scored, one class a file."""
