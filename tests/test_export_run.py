"""``lightning-compress export``: from the folder of a finished run to other formats."""

from __future__ import annotations

import pytest
import torch
import yaml

import lightning_compress as lc
from lightning_compress.app import export_command
from lightning_compress.quantization.placements.tensors import Tensors
from lightning_compress.testing.toys import SIZE, PlainModule

TOYS = "lightning_compress.testing.toys"
PLAN = {name: {"weight_bits": 8, "act_bits": 8} for name in ("stem.0", "conv1", "conv2", "fc")}


@pytest.fixture
def run(tmp_path):
    """Return a folder as a run leaves it, with a quantized network."""
    (tmp_path / "hydra").mkdir()
    config = {"model": {"_target_": f"{TOYS}.PlainModule"}, "data": {"_target_": f"{TOYS}.ToyData"}}
    (tmp_path / "hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    module, x = PlainModule(), torch.randn(32, 1, SIZE, SIZE)
    lc.QuantizationAwareTraining(PLAN, placement=Tensors()).apply(module.model, x)
    module.eval()(x)
    lc.save(module, tmp_path / "model.safetensors")
    return tmp_path


def test_files_are_written_beside_the_packed_one(run, capsys):
    for package in ("onnx", "onnxruntime", "ai_edge_litert"):
        pytest.importorskip(package, reason="the runtime is not installed")
    export_command.main([str(run), "--format", "onnx", "tflite"])
    printed = capsys.readouterr().out
    assert printed.count("4 layers in integers and 0 in float32") == 2
    assert (run / "model.onnx").is_file()
    assert (run / "model.tflite").is_file()


@pytest.mark.parametrize(
    ("format", "folder", "sentence"),
    [
        ("onx", ".", "error: export: there is no format 'onx'; did you mean 'onnx' or 'qonnx'?"),
        ("packed", "nowhere", "holds no finished run"),
    ],
)
def test_bad_arguments_end_with_a_sentence(format, folder, sentence, run):
    with pytest.raises(SystemExit) as ended:
        export_command.main([str(run / folder), "--format", format])
    assert sentence in str(ended.value)
