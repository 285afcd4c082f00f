"""How density falls during training, one class a file."""
