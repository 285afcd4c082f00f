"""Which weights a mask drops together, one class a file."""
