"""What a layer becomes when its weight is factorized, one factorization a file."""
