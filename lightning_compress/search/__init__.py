"""The outer loop: searchers propose plans, the evaluator scores them, the journal remembers."""
