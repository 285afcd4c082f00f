"""``lightning-compress layers``: what can be done to each layer of the configured network."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lightning_compress.app.shipped import shipped
from lightning_compress.core.errors import CompressError, first_line

if TYPE_CHECKING:
    from lightning import LightningDataModule, LightningModule


def main(given: Sequence[str]) -> None:
    """Print the layers, with the knobs of the callbacks of each stage, or of all callbacks without ``+compress=NAME``.

    Args:
        given: overrides of the configuration such as ``model=resnet18``, and options.
    """
    parser = argparse.ArgumentParser(
        prog="lightning-compress layers",
        description="Print every layer of the configured network with its knobs and their range.",
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as model=resnet18 +compress=drl_prune")
    parser.add_argument("--config-dir", type=Path, help="a folder with options of your own, such as model/mine.yaml")
    arguments = parser.parse_args(given)
    overrides = list(arguments.overrides)
    for override in overrides:
        if "=" not in override and not override.startswith("~"):
            parser.error(f"{override!r} is no KEY=VALUE: layers are those of a configuration, not of a finished run")
    if arguments.config_dir is not None:
        overrides.append(f"hydra.searchpath=['file://{arguments.config_dir.absolute()}']")
    try:
        with initialize_config_dir(str(shipped("conf").absolute()), version_base="1.3"):
            _print(compose("config", overrides=overrides))
    except (CompressError, HydraException, OmegaConfBaseException) as error:
        said = error.__cause__ if isinstance(error.__cause__, CompressError) else error
        sys.exit(f"error: {said if isinstance(said, CompressError) else f'configuration: {first_line(said)}'}")


def _print(cfg: DictConfig) -> None:
    from lightning_compress.pipeline.configuration import method_of  # torch loads only now, so that --help is quick
    from lightning_compress.pipeline.layers import inspect_layers
    from lightning_compress.surgery.inputs import example_of

    module: LightningModule = instantiate(cfg.model)
    data: LightningDataModule = instantiate(cfg.data)
    data.prepare_data()
    data.setup("fit")
    example = example_of(module, data.train_dataloader())
    if cfg.compress is None:
        print(inspect_layers(module, example))
        return
    for name, stage in method_of(cfg.compress).stages.items():
        print(f"stage {name}:")
        print(inspect_layers(module, example, list(stage.callbacks.values())))
