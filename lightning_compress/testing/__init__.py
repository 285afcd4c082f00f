"""A toy network, data, problems and the contract suites, for our tests and for those of third-party plug-ins."""
