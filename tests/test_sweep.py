"""The run's folder is tried before Hydra makes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

import lightning_compress.conf  # noqa: F401  makes ${slug:...} known, as train.py does
from lightning_compress.sweep import CheckFolder

CONF = Path(__file__).parent.parent / "conf"


@pytest.fixture(autouse=True)
def _no_other_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)


def composed(*overrides: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", ["+compress=quant", *overrides], return_hydra_config=True)


def test_a_folder_that_is_named_after_the_command(tmp_path):
    CheckFolder().on_run_start(composed("seed=3"))
    assert (tmp_path / "runs" / "compress=quant,seed=3").is_dir()


def test_a_folder_that_cannot_be_written_ends_the_process_with_a_sentence(tmp_path, capsys):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(SystemExit):
        CheckFolder().on_run_start(composed())
    assert (
        "error: cannot write to 'runs/compress=quant': Not a directory; choose another run_dir="
        in capsys.readouterr().out
    )
