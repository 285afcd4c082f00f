"""Schedules of the density during training, one class a file."""
