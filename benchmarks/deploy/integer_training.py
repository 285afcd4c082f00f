"""Quantization-aware training of layer inputs and of tensors (integer kernels), after equal training.

    python benchmarks/deploy/integer_training.py CIFAR10.npz mlperf_tiny_resnet8.safetensors --steps 120

The npz file has train_images, test_images (uint8, NHWC), train_labels and test_labels. The network's own training saw
these training images, so only accuracy on test images says anything.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.quantization.placements.layer_inputs import LayerInputs
from lightning_compress.quantization.placements.tensors import Tensors
from lightning_compress.surgery import measure
from lightning_compress.vision.models.mlperf_tiny import tiny_resnet8

BATCH, RATE, SEEDS, BITS = 64, 1e-3, (0, 1, 2), (8, 4)
PLACEMENTS = (LayerInputs(), Tensors())


def trained(state, placement, weight_bits, x, y, steps, seed):
    """Return the network after QAT of so many steps with a cosine schedule."""
    torch.manual_seed(seed)
    net = tiny_resnet8()
    net.load_state_dict(state)
    plan = {
        layer.name: {"weight_bits": weight_bits, "act_bits": 8} for layer in measure.measure(net.eval(), x[:2]).weighted
    }
    QuantizationAwareTraining(plan, placement=placement).apply(net, x[:2])
    with torch.no_grad():
        net(x[:256])  # sets the scales of activations
    optimizer = torch.optim.SGD(net.parameters(), RATE, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    net.train()
    for _ in range(steps):
        rows = torch.randint(len(x), (BATCH,))
        flips = torch.rand(BATCH) < 0.5
        batch = torch.where(flips.view(-1, 1, 1, 1), x[rows].flip(3), x[rows])
        optimizer.zero_grad()
        F.cross_entropy(net(batch), y[rows]).backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("state")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--rows", type=Path, default=Path("integer_training.jsonl"), help="what is measured; resumable")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data, state = np.load(arguments.data), load_file(arguments.state)
    x, test = (torch.from_numpy(data[f"{n}_images"]).permute(0, 3, 1, 2).float() for n in ("train", "test"))
    y, labels = (torch.from_numpy(data[f"{n}_labels"].ravel()).long() for n in ("train", "test"))
    lines = arguments.rows.read_text().splitlines() if arguments.rows.is_file() else []
    rows = {tuple(key): accuracy for key, accuracy in map(json.loads, lines)}
    print(f"{arguments.steps} steps of {BATCH}, learning rate {RATE} to 0, {len(test)} test images, seeds {SEEDS}")
    for seed in SEEDS:
        for weight_bits in BITS:
            for placement in PLACEMENTS:
                key = (arguments.steps, weight_bits, type(placement).__name__, seed)
                if key in rows:
                    continue
                net = trained(state, placement, weight_bits, x, y, arguments.steps, seed)
                rows[key] = accuracy(net, test, labels)
                with arguments.rows.open("a") as file:
                    file.write(json.dumps([key, rows[key]]) + "\n")
    for weight_bits in BITS:
        for placement in PLACEMENTS:
            name = type(placement).__name__
            found = [rows[arguments.steps, weight_bits, name, seed] for seed in SEEDS]
            print(f"w{weight_bits}a8 {name}: {mean(found):.2f} % ({', '.join(f'{share:.2f}' for share in found)})")


@torch.no_grad()
def accuracy(net, test, labels) -> float:
    """Percent of the test images."""
    batches = zip(test.split(500), labels.split(500), strict=True)
    return 100 * sum(int((net(a).argmax(1) == b).sum()) for a, b in batches) / len(test)


if __name__ == "__main__":
    main()
