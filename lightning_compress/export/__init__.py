"""From a trained network to a small file, and what is said about it: packing, latency, report."""
