"""Initial weights after layers were removed, one way a file."""
