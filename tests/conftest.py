"""Settings of all tests."""

import logging

import pytest
import torch

from lightning_compress.conf import resolvers

resolvers.register()


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Small networks are slower with more, and much slower when tests run side by side."""
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
