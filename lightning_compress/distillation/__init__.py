"""Distillation losses: one frozen dataclass a file."""
