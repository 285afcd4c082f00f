"""Searchers: they propose plans and learn from their scores, one class a file."""
