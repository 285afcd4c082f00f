"""CIFAR-style networks and the LightningModule that ``train.py`` and the recipes use."""
