r"""MLPerf Tiny's reference int8 file beside ours: accuracy, flash, RAM, MACs and latency, in one script.

    python benchmarks/deploy/mlperf_tiny.py CIFAR10.npz mlperf_tiny_resnet8.safetensors reference=THEIRS.tflite \
        [NAME=FILE.tflite ...]

The npz file has train_images, test_images (uint8, NHWC) and test_labels. THEIRS is
benchmark/training/image_classification/trained_models/pretrainedResnet_quant.tflite of github.com/mlcommons/tiny. Ours
is made here from the same trained network, without training: grids come from 500 training images. Each file runs on all
test images in LiteRT and in TFLite-Micro; latencies are CPU time of one thread, the least of interleaved runs.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ai_edge_litert import schema_py_generated as schema
from interleaved import interleaved
from safetensors.torch import load_file

import lightning_compress as lc
from lightning_compress.export.compared import machine
from lightning_compress.export.tflite.arena import arena_bytes
from lightning_compress.export.tflite.engines import LiteRT, TFLiteMicro
from lightning_compress.vision.models.mlperf_tiny import tiny_resnet8

CALIBRATION, PORTION, ROUNDS = 500, 500, 100
CONVOLUTIONS = (schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.DEPTHWISE_CONV_2D)
DENSE = schema.BuiltinOperator.FULLY_CONNECTED


class File:
    """A .tflite file that takes and returns int8.

    Attributes:
        macs: multiply-accumulates of one image.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        model = schema.ModelT.InitFromPackedBuf(bytearray(content), 0)
        (graph,) = model.subgraphs
        grid = graph.tensors[graph.inputs[0]].quantization
        self.scale, self.zero = np.float32(grid.scale[0]), int(grid.zeroPoint[0])
        self.macs = sum(_macs(model, graph, operator) for operator in graph.operators)

    def stored(self, images: np.ndarray) -> np.ndarray:
        """Return raw pixels as the file takes them."""
        return np.clip(np.rint(np.float32(images) / self.scale) + self.zero, -128, 127).astype(np.int8)

    def run(self, engine: LiteRT | TFLiteMicro, images: np.ndarray) -> np.ndarray:
        """Return the outputs for all images, ``(images, classes)``."""
        portions = [images[i : i + PORTION] for i in range(0, len(images), PORTION)]
        return np.concatenate([engine.run(self.stored(portion)) for portion in portions])


def _macs(model: Any, graph: Any, operator: Any) -> int:
    code = model.operatorCodes[operator.opcodeIndex].builtinCode
    if code not in (*CONVOLUTIONS, DENSE):
        return 0
    weight, out = graph.tensors[operator.inputs[1]].shape, graph.tensors[operator.outputs[0]].shape
    return int(np.prod(weight)) * (1 if code == DENSE else int(np.prod(out[1:3])))


def ours(state: Path, images: np.ndarray, folder: Path) -> bytes:
    """Return our int8 file of the trained network, made from data alone."""
    net = tiny_resnet8()
    net.load_state_dict(load_file(state))
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float().contiguous()
    report = lc.export(net.eval(), folder / "ours.tflite", x[:64], calibration=[x])
    print("ours:", report.sentence)
    return (folder / "ours.tflite").read_bytes()


def main() -> None:
    torch.set_num_threads(1)
    data, state = dict(np.load(sys.argv[1])), Path(sys.argv[2])
    given = dict(argument.split("=", 1) for argument in sys.argv[3:])
    files = {name: File(Path(path).read_bytes()) for name, path in given.items()}
    with tempfile.TemporaryDirectory() as folder:
        files["ours"] = File(ours(state, data["train_images"][:CALIBRATION], Path(folder)))
    images, labels = data["test_images"], data["test_labels"].ravel()
    engines = {name: LiteRT(file.content) for name, file in files.items()}
    calls, outputs = {}, {}
    for name, file in files.items():
        outputs[name] = file.run(engines[name], images).argmax(1)
    for name, file in files.items():
        engines[name].run(file.stored(images[:1]))
        calls[name] = engines[name].interpreter.invoke
    times = interleaved(calls, ROUNDS)
    print(machine(), engines["ours"].version, TFLiteMicro(files["ours"].content).version)
    for name, file in files.items():
        parts, rest = engines[name].parts()
        print(f"{name}: flash {len(file.content):,} bytes, arena {arena_bytes(file.content):,} bytes, "
              f"MACs {file.macs:,}, LiteRT {100 * (outputs[name] == labels).mean():.2f} %, {times[name]:.4f} ms, "
              f"{parts} parts in XNNPACK, outside {rest}", flush=True)  # fmt: skip
    for name, file in files.items():
        found = file.run(TFLiteMicro(file.content), images).argmax(1)
        print(f"{name}: TFLite-Micro {100 * (found == labels).mean():.2f} % of {len(labels)} images, largest output "
              f"differs from LiteRT's for {int((found != outputs[name]).sum())}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
