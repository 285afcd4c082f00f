"""What the weights of a network start from after layers were removed, one way a file."""
