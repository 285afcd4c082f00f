"""A network as a plain-data graph of integer (or float) kernels, from which the writers of deployment formats start."""
