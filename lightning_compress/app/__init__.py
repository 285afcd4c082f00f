"""The application: what is inside train.py and the command line, Hydra callbacks, the report."""
