"""Quantization-aware training of a well-trained ResNet-20 beside Brevitas', after the same steps.

    python benchmarks/real/peers_quant.py run NETS cifar10.npz --seeds 0 1 2
    python benchmarks/real/peers_quant.py run NETS cifar10.npz --steps 0
    python benchmarks/real/peers_quant.py table

All sides quantize all layers of the same network (bsq_resnet20, see trained.py), calibrate on the same first 512 train
images, and get the same batches and SGD whose learning rate falls to zero as a cosine; the test accuracy is of all
10,000 images. "before" is the network as it was calibrated; with no steps it alone is told, of post-training
quantization. Ours is ``QuantizationAwareTraining`` as it comes. Brevitas (0.13) has its default quantizers: max-abs
weights per channel and learned input scales, signed; ``unsigned`` takes its unsigned quantizer behind each ReLU.
torchao (0.18) is its PT2E with the XNNPACK quantizer (that for x86 refuses a ReLU module that is called twice), made
for QAT, or for post-training quantization where there are no steps. The seed is that of the training. Rows are appended
to ``FOLDER/quant.jsonl``; those that are there are not run again.
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


def torchao(net: nn.Module, weight_bits: int, act_bits: int, x: Tensor, training: bool) -> nn.Module:
    """Quantize a network by torchao's export, for a training or as it is."""
    from torchao.quantization.pt2e import allow_exported_model_train_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e, prepare_qat_pt2e
    from torchao.testing.pt2e._xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config

    most_weight, most_input = 2 ** (weight_bits - 1) - 1, 2 ** (act_bits - 1) - 1
    config = get_symmetric_quantization_config(
        is_per_channel=True,
        is_qat=training,
        act_qmin=-most_input - 1,
        act_qmax=most_input,
        weight_qmin=-most_weight - (weight_bits < 8),
        weight_qmax=most_weight,
    )
    net.train(training)
    exported = torch.export.export(net, (x[:2],), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},)).module()
    prepare = prepare_qat_pt2e if training else prepare_pt2e
    made = allow_exported_model_train_eval(prepare(exported, XNNPACKQuantizer().set_global(config)))
    made.eval()
    with torch.no_grad():
        for batch in x.split(128):
            made(batch)
    return made if training else allow_exported_model_train_eval(convert_pt2e(made))


SIDES: dict[str, Callable[[nn.Module, int, int, Tensor], nn.Module]] = {
    "ours": ours,
    "Brevitas": partial(brevitas, unsigned=False),
    "Brevitas, unsigned": partial(brevitas, unsigned=True),
    "torchao": partial(torchao, training=True),
}
POST_TRAINING = {**SIDES, "torchao": partial(torchao, training=False)}


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
                quantize = (SIDES if arguments.steps else POST_TRAINING)[side]
                net = quantize(copy.deepcopy(dense), *SETTINGS[bits], calibration)
                before = accuracy(net, known, *test)
                began = process_time()
                if arguments.steps:
                    fine_tune(net, known.normalized, train, lr=arguments.lr, steps=arguments.steps, seed=seed)
                seconds = process_time() - began
                after = accuracy(net, known, *test) if arguments.steps else before
                row = {**given, "before": before, "after": after, "seconds": round(seconds, 1)}
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
