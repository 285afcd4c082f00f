"""Every ``+compress=NAME`` composes, and its stages can be made, without training anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

import lightning_compress.conf
from lightning_compress.callbacks.base import check_order
from lightning_compress.layerwise import LayerwiseStage
from lightning_compress.stage import Stage

ROOT = Path(__file__).parent.parent
WAYS = sorted((Path(lightning_compress.conf.__file__).parent / "compress").glob("*.yaml"))


@pytest.mark.parametrize("file", WAYS, ids=lambda file: file.stem)
def test_stages_are_made(file):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", [f"+compress={file.stem}", "hydra.run.dir=unused"])
    stages = instantiate(config.compress.stages, _convert_="object")
    assert stages
    for stage in stages.values():
        assert isinstance(stage, (Stage, LayerwiseStage))
        check_order(list(stage.callbacks.values()))
        assert stage.callbacks or stage.distillation
