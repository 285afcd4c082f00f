"""Settings of all tests."""

import logging

import hypothesis
import pytest
import torch

from lightning_compress.conf import resolvers

resolvers.register()
# The same examples in each run, so that a change is what makes a test fail; `--hypothesis-profile=explore` draws more.
# No deadline: a busy machine is no failure.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True)
hypothesis.settings.register_profile("explore", deadline=None)
hypothesis.settings.load_profile("suite")


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Use one thread: small networks are slower with more, and much slower when tests run side by side."""
    torch.set_num_threads(1)
    # The first backward of a process decides whether autograd has threads. After a FakeTensorMode (torch.export) torch
    # counts devices that do not exist and starts one for each: children that the tests fork could not train then.
    torch.ones(1, requires_grad=True).sum().backward()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
