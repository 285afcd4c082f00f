"""From a trained network to files: the packed file, and writers for runtimes."""
