"""Every way of ``+compress=`` from the dense network to the packed file on a GPU; skipped where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning import LightningModule, Trainer, seed_everything
from omegaconf import OmegaConf

import lightning_compress as lc
import lightning_compress.conf
from lightning_compress.pipeline.compress import compress
from lightning_compress.pipeline.result import Result
from lightning_compress.vision.data.digits import Digits

ROOT = Path(__file__).parent.parent
WAYS = sorted((Path(lightning_compress.conf.__file__).parent / "compress").glob("*.yaml"))
SHORTER = {"epochs": 1, "steps_between": 0, "planner.values": 1, "planner.trials": 2}
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def ran(way: str, folder: Path, *overrides: str) -> tuple[LightningModule, Digits, Result]:
    """Compress a dense network of one epoch on the first GPU, with as little training and search as there can be."""
    given = [f"+compress={way}", "hydra.run.dir=unused", "seed=0", *overrides]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        stages = compose("config", given).compress.stages
        shorter = [
            f"compress.stages.{stage}.{key}={value}"
            for stage, settings in stages.items()
            for key, value in SHORTER.items()
            if OmegaConf.select(settings, key) is not None
        ]
        config = compose("config", [*given, *shorter])
    seed_everything(0, verbose=False)
    data, module = instantiate(config.data), instantiate(config.model)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    Trainer(accelerator="gpu", devices=1, max_epochs=1, enable_model_summary=False, **quiet).fit(
        module, datamodule=data
    )
    stages = instantiate(config.compress.stages, _convert_="object")
    make_trainer = instantiate(config.trainer, accelerator="gpu")
    return module, data, compress(module, data, stages, folder=folder, make_trainer=make_trainer)


@needs_gpu
@pytest.mark.parametrize(
    ("way", "overrides"),
    [
        *((file.stem, []) for file in WAYS),
        ("drl_quant", ["compress/searcher=td3", "compress/executor=process",
                       "compress.stages.quantize.planner.in_flight=2"]),
        ("drl_quant", ["compress/searcher=sac", "compress/coder=fixed_width"]),
        ("quant", ["compress/quantizer@compress.weight_quantizer=dorefa",
                   "compress/quantizer@compress.activation_quantizer=pact"]),
        ("prune", ["compress/criterion=taylor", "compress/refit=asymmetric"]),
        ("prune", ["compress/criterion=gram", "compress/refit=symmetric"]),
        ("variational", ["compress/pattern=kernel"]),
        ("sparsify", ["compress/pattern=n_of_m", "compress/schedule=iterative"]),
        ("sparsify", ["compress/scope=network_wide", "+trainer.precision=bf16-mixed"]),
        ("joint", ["compress/account=file"]),
        ("attention", ["compress/feature_loss=feature_mse"]),
        ("drl_two_stage", ["+trainer.precision=16-mixed"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(v.rpartition("=")[2] for v in value),
)  # fmt: skip
def test_a_network_compressed_on_a_gpu_is_the_one_in_the_file(way, overrides, tmp_path):
    module, data, result = ran(way, tmp_path, *overrides)
    loaded = lc.load(result.folder / "model.safetensors", module)
    assert {p.device.type for p in loaded.parameters()} == {"cpu"}
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    found = Trainer(accelerator="cpu", **quiet).test(loaded, datamodule=data, verbose=False)[0]["test_acc"]
    assert found == pytest.approx(result.compressed.accuracy, abs=0.02)  # tf32 convolutions flip a few of 360 images
    assert result.compressed.bytes < result.dense.bytes or way in ("distill",)
