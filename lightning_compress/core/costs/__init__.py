"""Costs: profile -> number, one class a file."""
