"""Quantization-aware training of a well-trained ResNet-20 beside Brevitas', after the same steps.

    python benchmarks/real/peers_quant.py run NETS cifar10.npz --seeds 0 1 2
    python benchmarks/real/peers_quant.py table

All sides quantize all layers of the same network (bsq_resnet20, see trained.py), calibrate on the same first 512 train
images, and get the same batches and SGD whose learning rate falls to zero as a cosine; the test accuracy is of all
10,000 images. Ours is ``QuantizationAwareTraining`` as it comes. Brevitas (0.13) has its default quantizers: max-abs
weights per channel and learned input scales, signed; ``unsigned`` takes its unsigned quantizer behind each ReLU. The
seed is that of the training. Rows are appended to ``FOLDER/quant.jsonl``; those that are there are not run again.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from functools import partial
from statistics import mean
from time import process_time

import torch
from bench import fine_tune
from ptq import CALIBRATION, brevitas, ours
from rows import append, asking, rows_of, spread, start
from torch import Tensor, nn
from trained import NETWORKS, accuracy, images, load

NETWORK = "bsq_resnet20"
SETTINGS = {"w8a8": (8, 8), "w4a4": (4, 4), "w3a3": (3, 3), "w2a4": (2, 4), "w2a8": (2, 8)}
SIDES: dict[str, Callable[[nn.Module, int, int, Tensor], nn.Module]] = {
    "ours": ours,
    "Brevitas": partial(brevitas, unsigned=False),
    "Brevitas, unsigned": partial(brevitas, unsigned=True),
}


def run(arguments: argparse.Namespace) -> None:
    """Add the rows that are missing, the sides taking turns."""
    torch.set_num_threads(1)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    file = arguments.folder / "quant.jsonl"
    done = {(row["bits"], row["seed"], row["side"], row["steps"], row["lr"]) for row in rows_of(file)}
    known = NETWORKS[NETWORK]
    train, test = images(arguments.npz, "train"), images(arguments.npz, "test")
    calibration = known.normalized(train[0][:CALIBRATION])
    for seed in arguments.seeds:
        for bits in arguments.bits:
            for side in arguments.sides:
                given = {"bits": bits, "seed": seed, "side": side, "steps": arguments.steps}
                given |= {"lr": arguments.lr}
                if tuple(given.values()) in done:
                    continue
                dense = load(NETWORK, arguments.nets)
                net = SIDES[side](copy.deepcopy(dense), *SETTINGS[bits], calibration)
                before = accuracy(net, known, *test)
                began = process_time()
                fine_tune(net, known.normalized, train, lr=arguments.lr, steps=arguments.steps, seed=seed)
                seconds = process_time() - began
                row = {**given, "before": before, "after": accuracy(net, known, *test), "seconds": round(seconds, 1)}
                append(file, row)


def table(arguments: argparse.Namespace) -> None:
    """Print the rows, and their paired differences to Brevitas."""
    rows = rows_of(arguments.folder / "quant.jsonl")
    for steps, lr in sorted({(row["steps"], row["lr"]) for row in rows}):
        of = [row for row in rows if (row["steps"], row["lr"]) == (steps, lr)]
        print(f"\n{steps} steps of 128 images, learning rate {lr:g}")
        print(f"{'':8}{'':20}{'seeds':>6}{'before':>10}{'after':>16}{'- Brevitas':>16}{'CPU seconds':>14}")
        for bits in SETTINGS:
            peer = {row["seed"]: row["after"] for row in of if (row["bits"], row["side"]) == (bits, "Brevitas")}
            for side in SIDES:
                found = [row for row in of if (row["bits"], row["side"]) == (bits, side)]
                if not found:
                    continue
                after = spread([row["after"] for row in found])
                paired = [row["after"] - peer[row["seed"]] for row in found if row["seed"] in peer]
                less = "-" if side == "Brevitas" else spread(paired, "+")
                cells = f"{mean(row['before'] for row in found):10.2f}{after:>16}{less:>16}"
                print(f"{bits:8}{side:20}{len(found):6}{cells}{min(row['seconds'] for row in found):14.1f}")


def main() -> None:
    """Run rows or print them."""
    asked, jobs, running = asking(__doc__, run, steps=120)
    running.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    running.add_argument("--bits", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="of weights and inputs")
    running.add_argument("--lr", type=float, default=0.02, help="peak learning rate")
    start(asked, jobs, table)


if __name__ == "__main__":
    main()
