"""What a layer becomes when its weight is factorised, one factorisation a file."""
