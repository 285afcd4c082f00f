"""The outer loop: searchers propose plans, executors score them, the journal remembers. It never sees a network."""
