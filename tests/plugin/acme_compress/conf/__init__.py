"""The options that this package adds to ``+compress=NAME``."""
