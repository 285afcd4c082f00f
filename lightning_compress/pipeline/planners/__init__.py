"""Planners: how a stage comes to its plan, one class a file."""
