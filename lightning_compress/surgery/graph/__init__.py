"""Coupled channels and removable blocks of a network, found by tracing and verified by execution."""
