"""Trained networks as int8 files without training: calibrated alone, with outputs corrected, with weights rounded too.

    python benchmarks/deploy/post_training_parts.py CIFAR10.npz bsq_resnet20.safetensors mlperf_tiny_resnet8.safetensors

Accuracy is that of the .tflite file in LiteRT on all test images; all that is fitted is fitted to 500 training images,
others for each seed. Weights are rounded by least squares (quantization/least_squares_rounding.py), else to the nearest
codes. The npz file has train_images, test_images (uint8, NHWC) and test_labels.
"""

from __future__ import annotations

import sys
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from post_training import CALIBRATION, NETWORKS, images
from safetensors.torch import load_file
from torch import Tensor, nn

from lightning_compress.export.compared import machine
from lightning_compress.export.integer import completion
from lightning_compress.export.integer.emulate import to_levels
from lightning_compress.export.integer.lower import lower
from lightning_compress.export.tflite.engines import LiteRT, from_stored, to_stored
from lightning_compress.export.tflite.write import tflite_bytes
from lightning_compress.quantization import post_training

SEEDS, WEIGHT_BITS, PORTION = (0, 1, 2), (4, 8), 500


def accuracy(net: nn.Module, test: Tensor, labels: Tensor) -> float:
    """Return the accuracy of the file, in per cent."""
    graph = lower(net, test[:1])
    engine, grid, out = LiteRT(tflite_bytes(graph)), graph.grid(graph.input), graph.grid(graph.output)
    found = [from_stored(engine.run(to_stored(to_levels(x, grid), grid)), out) for x in test.split(PORTION)]
    return 100 * float((torch.cat(found).argmax(1) == labels).float().mean())


def main() -> None:
    torch.set_num_threads(1)
    print(machine(), flush=True)
    data = dict(np.load(sys.argv[1]))
    labels = torch.from_numpy(data["test_labels"].ravel()).long()
    for state in map(Path, sys.argv[2:]):
        make, normalized = NETWORKS[state.stem]
        net = make()
        net.load_state_dict(load_file(state))
        test = images(data["test_images"], normalized)
        for seed in SEEDS:
            chosen = np.random.default_rng(seed).choice(len(data["train_images"]), CALIBRATION, replace=False)
            batches = [images(data["train_images"][chosen], normalized)]
            for bits in WEIGHT_BITS:
                with mock.patch.object(completion, "fit_to_quantizers"):
                    calibrated = accuracy(completion.complete(net.eval(), batches, 8, bits), test, labels)
                with mock.patch.object(post_training, "round_by_least_squares", return_value={}):
                    corrected = accuracy(completion.complete(net.eval(), batches, 8, bits), test, labels)
                rounded = accuracy(completion.complete(net.eval(), batches, 8, bits), test, labels)
                print(
                    f"{state.stem} w{bits}a8, seed {seed}: {calibrated:.2f} % calibrated, {corrected:.2f} % with "
                    f"outputs corrected, {rounded:.2f} % with weights rounded by least squares too",
                    flush=True,
                )


if __name__ == "__main__":
    main()
