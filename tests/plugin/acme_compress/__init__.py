"""A package of somebody else: one class and one YAML for each kind, and nothing of lightning-compress edited."""
