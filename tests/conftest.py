"""Settings of all tests."""

import logging

import hypothesis
import pytest
import torch

from lightning_compress.conf import resolvers

resolvers.register()
hypothesis.settings.register_profile("suite", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("suite")


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Small networks are slower with more, and much slower when tests run side by side."""
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
