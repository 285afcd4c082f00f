"""Quantization: quantizers, k-means codebooks, bit allocation, projections of ADMM."""
