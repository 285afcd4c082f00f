"""Noise whose strength is learned: what survives much of it carries no information. One class a file."""
