"""conf/logger: each is one of Lightning's loggers and can be completed with the folder to write to."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from hydra.utils import get_class
from lightning.pytorch.loggers import Logger
from omegaconf import OmegaConf

FILES = sorted((Path(__file__).parent.parent / "conf" / "logger").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_takes_what_is_given_here_and_the_folder(file):
    """TensorBoard's package is not a requirement, so the logger is not made here."""
    settings = OmegaConf.to_container(OmegaConf.load(file))
    logger = get_class(settings.pop("_target_"))
    assert settings.pop("_partial_") is True
    assert issubclass(logger, Logger)
    assert inspect.signature(logger).bind(save_dir="runs", **settings).arguments["save_dir"] == "runs"
