"""Trained networks as int8 files without training: accuracy on all test images, parity, bytes, latency in the runtimes.

    python benchmarks/deploy/post_training.py CIFAR10.npz mlperf_tiny_resnet8.safetensors bsq_resnet20.safetensors

The npz file has train_images, test_images (uint8, NHWC) and test_labels. Grids come from 500 training images. Latencies
are CPU time of one thread, the least of interleaved runs, for float32 and int8 files of one network side by side.
"""

from __future__ import annotations

import sys
import tempfile
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from interleaved import interleaved
from safetensors.torch import load_file

import lightning_compress as lc
from lightning_compress.export.compared import machine
from lightning_compress.export.deployable import deployable
from lightning_compress.export.integer.emulate import emulate, to_levels
from lightning_compress.export.integer.rounding.double import DoubleRounding
from lightning_compress.export.integer.rounding.floating import FloatRounding
from lightning_compress.export.integer.rounding.litert import LiteRTRounding
from lightning_compress.export.onnx.session import Session
from lightning_compress.export.tflite.engines import LiteRT, TFLiteMicro, from_stored, to_nhwc, to_stored
from lightning_compress.vision.models.mlperf_tiny import tiny_resnet8
from lightning_compress.vision.models.resnet_cifar import resnet20

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
NETWORKS = {"mlperf_tiny_resnet8": (tiny_resnet8, False), "bsq_resnet20": (resnet20, True)}
CALIBRATION, MICRO, ROUNDS = 500, 500, 30


def images(raw: np.ndarray, normalized: bool) -> torch.Tensor:
    x = torch.from_numpy(raw).permute(0, 3, 1, 2).float()
    if not normalized:
        return x.contiguous()
    return ((x / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)).contiguous()


def one(name: str, state: Path, data: dict[str, np.ndarray], folder: Path) -> None:
    make, normalized = NETWORKS[name]
    net = make()
    net.load_state_dict(load_file(state))
    net.eval()
    calibration = images(data["train_images"][:CALIBRATION], normalized)
    test, labels = images(data["test_images"], normalized), torch.from_numpy(data["test_labels"].ravel()).long()
    accuracy = lambda y: 100 * float((y.argmax(1) == labels[: len(y)]).float().mean())  # noqa: E731
    with torch.no_grad():
        expected = torch.cat([net(x) for x in test.split(500)])
    print(f"{name}: torch float32 {accuracy(expected):.2f} %")
    graph = deployable(net, calibration, [calibration]).graph
    grid, out = graph.tensors["input"].grid, graph.tensors[graph.output].grid
    files = {}
    for kind, settings in (("float32", {}), ("int8", {"calibration": [calibration]})):
        for ending in ("tflite", "onnx"):
            path = folder / f"{name}-{kind}.{ending}"
            report = lc.export(net, path, calibration[:64], **settings)
            files[kind, ending] = path.read_bytes()
            found = report.deployed
            print(f"  {kind} {ending}: {report.bytes} bytes ({found.gzip_bytes} gzipped), {found.integer_kernels} "
                  f"integer kernels, {len(found.float_kernels)} in float32, activations {found.activation_bytes}, "
                  f"arena {found.arena_bytes}, slope {found.slope:.5f}")  # fmt: skip
    lite, session = LiteRT(files["int8", "tflite"]), Session(files["int8", "onnx"])
    levels = to_levels(test, grid)
    found = torch.cat([from_stored(lite.run(to_stored(x, grid)), out) for x in levels.split(500)])
    emulated = torch.cat([emulate(graph, x, LiteRTRounding()) for x in levels[:2000].split(500)])
    print(f"  {lite.version}: {accuracy(found):.2f} %, {int((found[:2000] != emulated).sum())} of {emulated.numel()} "
          f"values differ from the emulation, argmax differs from float32 in {int((found.argmax(1) != expected.argmax(1)).sum())}")  # fmt: skip  # noqa: E501
    found = torch.cat([session.run(x) for x in test.split(500)])
    emulated = torch.cat([emulate(graph, x, FloatRounding()) for x in levels[:2000].split(500)])
    steps = (found[:2000] / out.scale).round().long() - emulated
    print(f"  {session.version}: {accuracy(found):.2f} %, {int((steps != 0).sum())} of {steps.numel()} values differ "
          f"from the emulation, argmax in {int((found[:2000].argmax(1) != emulated.argmax(1)).sum())} of 2000; kernels "
          f"{dict(session.kernels)}")  # fmt: skip
    micro = TFLiteMicro(files["int8", "tflite"])
    found = from_stored(micro.run(to_stored(levels[:MICRO], grid)), out)
    emulated = emulate(graph, levels[:MICRO], DoubleRounding())
    print(f"  {micro.version}: {accuracy(found):.2f} % of the first {MICRO}, {int((found != emulated).sum())} of "
          f"{found.numel()} values differ from the emulation")  # fmt: skip
    for batch in (1, 32):
        x, jobs = test[:batch], {}
        for kind in ("float32", "int8"):
            s, t = Session(files[kind, "onnx"]), LiteRT(files[kind, "tflite"])
            t.run(to_nhwc(x) if kind == "float32" else to_stored(to_levels(x, grid), grid))
            jobs[f"onnxruntime {kind}"] = lambda s=s, x=x: s.run(x)
            jobs[f"litert {kind}"] = t.interpreter.invoke
        times = interleaved(jobs, ROUNDS)
        for runtime in ("onnxruntime", "litert"):
            whole, small = times[f"{runtime} float32"], times[f"{runtime} int8"]
            print(f"  batch {batch}, {runtime}: float32 {whole:.3f} ms, int8 {small:.3f} ms, {whole / small:.2f} times")


def main() -> None:
    torch.set_num_threads(1)
    versions = {p: metadata.version(p) for p in ("torch", "onnxruntime", "ai-edge-litert", "tflite_micro")}
    print(machine(), versions)
    data = dict(np.load(sys.argv[1]))
    with tempfile.TemporaryDirectory() as folder:
        for file in map(Path, sys.argv[2:]):
            one(file.stem, file, data, Path(folder))


if __name__ == "__main__":
    main()
