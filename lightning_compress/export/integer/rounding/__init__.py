"""How each runtime rounds: one file each."""
