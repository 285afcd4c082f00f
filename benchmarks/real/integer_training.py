"""Quantization-aware training of layer inputs and of tensors (integer kernels), after equal training.

    python benchmarks/real/integer_training.py NETS CIFAR10.npz mlperf_tiny_resnet8 --steps 120 --lr 0.001

NETS holds the networks of trained.py. Their own training saw these training images, so only accuracy on test images
says anything.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean

import torch
import torch.nn.functional as F
from trained import NETWORKS, accuracy, images, load

from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.quantization.placements.layer_inputs import LayerInputs
from lightning_compress.quantization.placements.tensors import Tensors
from lightning_compress.surgery import measure

BATCH, SEEDS, BITS = 64, (0, 1, 2), ("w8a8", "w4a8", "w4a4")
PLACEMENTS = (LayerInputs(), Tensors())


def trained(net, normalized, placement, bits, x, y, arguments, seed):
    """Return the network after QAT of so many steps with a cosine schedule."""
    torch.manual_seed(seed)
    first = normalized(x[:256])
    widths = {"weight_bits": int(bits[1]), "act_bits": int(bits[3])}
    plan = {layer.name: widths for layer in measure.measure(net, first[:2]).weighted}
    QuantizationAwareTraining(plan, placement=placement).apply(net, first[:2])
    with torch.no_grad():
        net(first)  # sets the scales of activations
    optimizer = torch.optim.SGD(net.parameters(), arguments.lr, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, arguments.steps)
    net.train()
    for _ in range(arguments.steps):
        rows = torch.randint(len(x), (BATCH,))
        flips = torch.rand(BATCH) < 0.5
        batch = torch.where(flips.view(-1, 1, 1, 1), x[rows].flip(3), x[rows])
        optimizer.zero_grad()
        F.cross_entropy(net(normalized(batch)), y[rows]).backward()
        optimizer.step()
        schedule.step()
    return net


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("nets", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("net", choices=NETWORKS)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--bits", nargs="+", choices=BITS, default=BITS, help="of weights and layer inputs")
    parser.add_argument("--rows", type=Path, default=Path("integer_training.jsonl"), help="what is measured; resumable")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    (x, y), (test, labels) = (images(arguments.data, part) for part in ("train", "test"))
    lines = arguments.rows.read_text().splitlines() if arguments.rows.is_file() else []
    rows = {tuple(key): share for key, share in map(json.loads, lines)}
    found = NETWORKS[arguments.net]
    fixed = (arguments.net, arguments.steps, arguments.lr)
    for seed in SEEDS:
        for bits in arguments.bits:
            for placement in PLACEMENTS:
                key = (*fixed, bits, type(placement).__name__, seed)
                if key in rows:
                    continue
                net = load(arguments.net, arguments.nets)
                net = trained(net, found.normalized, placement, bits, x, y, arguments, seed)
                rows[key] = accuracy(net, found, test, labels)
                with arguments.rows.open("a") as file:
                    file.write(json.dumps([key, rows[key]]) + "\n")
    print(f"{arguments.net}: {arguments.steps} steps of {BATCH}, learning rate {arguments.lr} to 0, seeds {SEEDS}")
    for bits in arguments.bits:
        for placement in PLACEMENTS:
            name = type(placement).__name__
            shares = [rows[*fixed, bits, name, seed] for seed in SEEDS]
            print(f"{bits} {name}: {mean(shares):.2f} % ({', '.join(f'{share:.2f}' for share in shares)})")


if __name__ == "__main__":
    main()
