"""ResNet-20 in the runtimes: int8 and half of the channels beside float32, latencies and bytes, with the aims.

    python benchmarks/deploy/runtimes.py

Weights are random, for latency and bytes do not depend on them; grids come from 64 random images. The files take turns
in one process on one thread, those of four times the width among themselves, and each has the least of its CPU times
(process_time, which counts the pools of ExecuTorch and LiteRT too). A runtime that is not installed is left out.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import torch
from interleaved import interleaved
from torch import Tensor, nn

from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.core.plan import Plan
from lightning_compress.export.compared import machine
from lightning_compress.export.deployable import deployable
from lightning_compress.export.executorch.exporter import ExecuTorch
from lightning_compress.export.executorch.program import Runtime
from lightning_compress.export.integer.emulate import to_levels
from lightning_compress.export.integer.graph import Graph
from lightning_compress.export.onnx.exporter import Onnx
from lightning_compress.export.onnx.session import Session
from lightning_compress.export.tflite.engines import LiteRT, to_nhwc, to_stored
from lightning_compress.export.tflite.exporter import TFLite
from lightning_compress.surgery import measure
from lightning_compress.vision.models.resnet_cifar import resnet20

SEED, IMAGES, SIZE = 0, 64, 32
WIDE = 4  # times the width
BATCHES = (1, 32)
ROUNDS = {1: 60, 32: 12}
PACKAGES = {"ONNX Runtime": "onnxruntime", "LiteRT": "ai_edge_litert", "ExecuTorch": "executorch"}
BOUNDS = {  # of the bytes of a file with so many weights, channels and operations
    "ONNX Runtime": lambda codes, channels, operations: int(1.1 * codes + 30e3),
    "LiteRT": lambda codes, channels, operations: codes + 4 * channels + 30 * channels + 500 * operations,
}
AIMS = (  # runtime, network, beside, least ratio at batch 1 and 32
    ("ONNX Runtime", "int8", "float32", (2.0, 2.0)),
    ("ONNX Runtime", "wide int8", "wide float32", (3.0, 3.0)),
    ("LiteRT", "int8", "float32", (3.0, None)),
    ("ExecuTorch", "int8", "float32", (2.7, None)),
    ("ONNX Runtime", "half float32", "float32", (1 / 0.45, 1 / 0.45)),
    ("ONNX Runtime", "half int8", "float32", (None, 1 / 0.30)),
    ("LiteRT", "half int8", "float32", (None, None)),
    ("ExecuTorch", "half int8", "float32", (None, None)),
)


def half(net: nn.Module, example: Tensor) -> nn.Module:
    """Return the network with half of the channels of every group."""
    callback, profile = ChannelPruning(), measure.measure(net, example)
    plan = Plan({choice.layer: {choice.knob: 0.5} for choice in callback.choices(net, profile, example)})
    thin = copy.deepcopy(net)
    callback.with_plan(callback.resolve(plan, net, profile, example)).apply(thin, example)
    return thin.eval()


@dataclass(frozen=True)
class File:
    """One file: of a runtime, a network, and the batch that it takes, or None for any."""

    runtime: str
    network: str
    batch: int | None
    content: bytes
    graph: Graph

    def call(self, x: Tensor) -> Callable[[], object]:
        """Return what runs the file once."""
        if self.runtime == "ONNX Runtime":
            session = Session(self.content).session
            feed = {"x": x.numpy()}
            return lambda: session.run(None, feed)
        if self.runtime == "ExecuTorch":
            method = Runtime(self.content).method
            return lambda: method.execute([x])
        lite, grid = LiteRT(self.content), self.graph.grid(self.graph.input)
        lite.run(to_stored(to_levels(x, grid), grid) if self.network.endswith("int8") else to_nhwc(x))
        return lite.interpreter.invoke


def files(name: str, net: nn.Module, x: Tensor, folder: Path) -> list[File]:
    """Return the files of a network in float32 and int8."""
    graph, made = deployable(net, x, [x]).graph, []
    exporters = {("ONNX Runtime", None): Onnx, ("LiteRT", None): TFLite}
    exporters |= {("ExecuTorch", batch): lambda batch=batch, **given: ExecuTorch(batch, **given) for batch in BATCHES}
    for (runtime, batch), make in exporters.items():
        if find_spec(PACKAGES[runtime]) is None or (name == "wide" and runtime != "ONNX Runtime"):
            continue
        for kind, given in (("float32", {}), ("int8", {"calibration": [x]})):
            make(**given).export(net, folder / "net", x)
            made.append(File(runtime, f"{name} {kind}".strip(), batch, (folder / "net").read_bytes(), graph))
    return made


def timed(found: list[File], x: Tensor) -> dict[tuple[str, str, int], float]:
    """Return milliseconds by runtime, network and batch size."""
    least: dict[tuple[str, str, int], float] = {}
    for batch in BATCHES:
        for wide in (False, True):
            calls = {
                (file.runtime, file.network, batch): file.call(x[:batch].contiguous())
                for file in found
                if file.batch in (None, batch) and file.network.startswith("wide") == wide
            }
            least |= interleaved(calls, ROUNDS[batch] // (4 if wide else 1))
    return least


def tell_times(least: Mapping[tuple[str, str, int], float]) -> None:
    """Print latencies, and their ratios beside the aims."""
    for (runtime, name, batch), milliseconds in least.items():
        print(f"{runtime}, {name}, batch {batch}: {milliseconds:.3f} ms")
    print("\ntimes as fast as (aim):")
    for runtime, name, beside, aims in AIMS:
        for batch, aim in zip(BATCHES, aims, strict=True):
            if (runtime, name, batch) in least:
                ratio = least[runtime, beside, batch] / least[runtime, name, batch]
                told = "" if aim is None else f" (at least {aim:.2f}: {'met' if ratio >= aim else 'MISSED'})"
                print(
                    f"{runtime}, {name} beside {beside}, batch {batch}: {ratio:.2f}, {1 / ratio:.2f} of its time{told}"
                )


def tell_bytes(found: list[File]) -> None:
    """Print the bytes of int8 files beside what they may be."""
    print("\nbytes of int8 files (at most):")
    for file in found:
        if file.network.endswith("int8") and file.runtime in BOUNDS:
            codes = sum(layer.weight.size for layer in file.graph.weighted)
            channels = sum(len(layer.bias) for layer in file.graph.weighted)
            most = BOUNDS[file.runtime](codes, channels, len(file.graph.operations))
            size = len(file.content)
            print(f"{file.runtime}, {file.network}: {size:,} ({most:,}: {'met' if size <= most else 'MISSED'})")


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    x = torch.randn(IMAGES, 3, SIZE, SIZE)
    dense = resnet20().eval()
    nets = {"": dense, "half": half(dense, x[:2]), "wide": resnet20(width=16 * WIDE).eval()}
    with tempfile.TemporaryDirectory() as folder:
        found = [file for name, net in nets.items() for file in files(name, net, x, Path(folder))]
    versions = {
        name: metadata.version(package.replace("_", "-")) for name, package in PACKAGES.items() if find_spec(package)
    }
    print(f"# {machine()}; {versions}; torch {torch.__version__}; seed {SEED}")
    tell_times(timed(found, x))
    tell_bytes(found)


if __name__ == "__main__":
    main()
