"""The network of a finished run as files for other runtimes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from hydra.utils import instantiate
from lightning import LightningDataModule, LightningModule
from omegaconf import OmegaConf
from torch import Tensor

from lightning_compress.app.formats import FORMATS, known_formats
from lightning_compress.conf import resolvers
from lightning_compress.core.errors import CompressError, did_you_mean
from lightning_compress.export.exporter import Exporter, ExportReport
from lightning_compress.export.load import load
from lightning_compress.export.packed import Packed
from lightning_compress.surgery.inputs import network_inputs

CONFIG = Path("hydra") / "config.yaml"
SAMPLES = 512  # that grids are set from, and outputs compared on


def export_run(folder: Path, formats: Sequence[str], calibrate: bool = False) -> list[ExportReport]:
    """Write the network of a finished run in other formats, into its folder.

    Args:
        folder: of the run.
        formats: names of ``conf/compress/exporter``.
        calibrate: set the missing grids of a network in floating point from train data.

    Raises:
        CompressError: a format is not known, the folder holds no finished run, or see :class:`Exporter`.
    """
    exporters = [_exporter(name) for name in formats]
    module, data = _parts(folder)
    load(folder / Packed.file_name, module)
    data.prepare_data()
    data.setup("fit")
    x = _samples(module, data)
    found = []
    for exporter in exporters:
        if calibrate and hasattr(exporter, "calibration"):
            exporter = type(exporter)(**{**vars(exporter), "calibration": [x]})
        found.append(exporter.export(module, folder / exporter.file_name, x))
    return found


def _exporter(name: str) -> Exporter:
    file = FORMATS / f"{name}.yaml"
    if not file.is_file():
        raise CompressError(
            f"export: there is no format {name!r}{did_you_mean(name, known_formats())}; known: {known_formats()}"
        )
    return instantiate(OmegaConf.load(file))


def _parts(folder: Path) -> tuple[LightningModule, LightningDataModule]:
    """Return the module and the data of a run, as its configuration makes them."""
    if not (folder / CONFIG).is_file() or not (folder / Packed.file_name).is_file():
        raise CompressError(
            f"export: {str(folder)!r} holds no finished run: {CONFIG} and {Packed.file_name} are expected there"
        )
    resolvers.register()
    cfg = OmegaConf.load(folder / CONFIG)
    return instantiate(cfg.model), instantiate(cfg.data)


def _samples(module: LightningModule, data: LightningDataModule) -> Tensor:
    found: list[Tensor] = []
    for x in network_inputs(module, data.train_dataloader(), finite=True):
        if not isinstance(x, Tensor):
            raise CompressError(f"export: the network takes a {type(x).__name__}; formats are for one tensor")
        found.append(x)
        if sum(map(len, found)) >= SAMPLES:
            break
    return torch.cat(found)[:SAMPLES]
