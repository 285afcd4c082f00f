"""Well-trained networks quantized beside Brevitas and torchao, right after it or after the same steps of training.

    python benchmarks/real/peers_quant.py run NETS cifar10.npz --steps 0
    python benchmarks/real/peers_quant.py run NETS cifar10.npz --steps 120 --seeds 0 1 2 --bits w8a8 w4a4 w3a3 w2a4 w2a8
    python benchmarks/real/peers_quant.py table

NETS and the ``.npz`` as in trained.py; how each side quantizes is told in quantized.py. All calibrate on the same first
512 train images, in order, without augmentation, and get the same batches and SGD whose learning rate falls to zero as
a cosine; the test accuracy is of all 10,000 images. "before" is the network as it was calibrated; with no steps it
alone is told, nothing is drawn at random, and ours corrects the outputs of its layers. Ours is
``QuantizationAwareTraining`` as it comes, or with ``MinMax`` weights. torchao's is made for QAT, or for post-training
quantization where there are no steps. The seed is that of the training. Rows are appended to ``FOLDER/quant.jsonl``;
those that are there are not run again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from itertools import product
from statistics import mean
from time import process_time

import torch
from bench import fine_tune
from quantized import CALIBRATION, brevitas, ours, torchao
from rows import append, asking, rows_of, spread, start
from torch import Tensor, nn
from trained import NETWORKS, accuracy, images, load

from lightning_compress.quantization.quantizers.min_max import MinMax

SETTINGS = {
    f"w{weight_bits}a{act_bits}": (weight_bits, act_bits)
    for weight_bits, act_bits in ((8, 8), (6, 6), (4, 8), (4, 4), (3, 3), (2, 8), (2, 4))
}
SIDES: dict[str, Callable[[nn.Module, int, int, Tensor], nn.Module]] = {
    "ours": ours,
    "ours, min-max": partial(ours, weight_quantizer=MinMax),
    "Brevitas": partial(brevitas, unsigned=False),
    "Brevitas, unsigned": partial(brevitas, unsigned=True),
    "torchao": partial(torchao, training=True),
}
POST_TRAINING = {**SIDES, "torchao": partial(torchao, training=False)}
GIVEN = ("network", "seed", "bits", "side", "steps", "lr")  # what tells rows apart


def run(arguments: argparse.Namespace) -> None:
    """Add the rows that are missing, the sides taking turns."""
    torch.set_num_threads(1)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    file = arguments.folder / "quant.jsonl"
    done = [{name: row[name] for name in GIVEN} for row in rows_of(file)]
    train, test = images(arguments.npz, "train"), images(arguments.npz, "test")
    asked = product(arguments.networks, arguments.seeds, arguments.bits, arguments.sides)
    for name, seed, bits, side in asked:
        given = dict(zip(GIVEN, (name, seed, bits, side, arguments.steps, arguments.lr), strict=True))
        if given in done:
            continue
        known = NETWORKS[name]
        quantize = (SIDES if arguments.steps else POST_TRAINING)[side]
        net = quantize(load(name, arguments.nets), *SETTINGS[bits], known.normalized(train[0][:CALIBRATION]))
        before = accuracy(net, known, *test)
        began = process_time()
        if arguments.steps:
            fine_tune(net, known.normalized, train, lr=arguments.lr, steps=arguments.steps, seed=seed)
        seconds = process_time() - began
        after = accuracy(net, known, *test) if arguments.steps else before
        append(file, {**given, "before": before, "after": after, "seconds": round(seconds, 1)})


def table(arguments: argparse.Namespace) -> None:
    """Print the rows, and their paired differences to Brevitas."""
    rows = rows_of(arguments.folder / "quant.jsonl")
    for name, steps, lr in sorted({(row["network"], row["steps"], row["lr"]) for row in rows}):
        of = [row for row in rows if (row["network"], row["steps"], row["lr"]) == (name, steps, lr)]
        print(f"\n{name}, {steps} steps of 128 images" + (f", learning rate {lr:g}" if steps else ""))
        print(f"{'':8}{'':20}{'seeds':>6}{'before':>10}{'after':>16}{'- Brevitas':>16}{'CPU seconds':>14}")
        for bits, side in product(SETTINGS, SIDES):
            peer = {row["seed"]: row["after"] for row in of if (row["bits"], row["side"]) == (bits, "Brevitas")}
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
    running.add_argument("--networks", nargs="+", choices=NETWORKS, default=["bsq_resnet20"])
    running.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    running.add_argument("--bits", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="of weights and inputs")
    running.add_argument("--lr", type=float, default=0.02, help="peak learning rate")
    start(asked, jobs, table)


if __name__ == "__main__":
    main()
