"""Scopes in which weights compete: their layer or the whole network, one class a file."""
