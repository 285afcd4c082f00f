"""Whether weights compete within their layer or in the whole network, one class a file."""
