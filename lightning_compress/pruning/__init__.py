"""Pruning: criteria, mask patterns, schedules, learned noise, and least squares behind what was removed."""
