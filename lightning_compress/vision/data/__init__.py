"""LightningDataModules of images that ``train.py`` and the recipes use: one source a file."""
