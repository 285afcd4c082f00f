"""Policies of N2N: what a network of decisions is drawn from."""
