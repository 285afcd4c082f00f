"""How important a channel is: one frozen dataclass a file."""
