"""Importance criteria for channels: one frozen dataclass a file."""
