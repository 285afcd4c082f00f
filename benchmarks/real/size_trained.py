"""Bytes of whole packed files against accuracy after a short training: ``python size_trained.py run NETS DATA``.

NETS and DATA as in trained.py. Weights of convolutions and linear layers are quantized by rate (``RateQuantization``)
to what a file of the budget has room for, its other numbers are bfloat16, and all sides begin with the same codes:

    post-training   no training; biases corrected
    frozen steps    the same codes, then trained on their grids as by ordinary QAT: nothing holds the size
    rate-trained    the same, and weights are held to codes that fit, as ``+compress=rate`` does

Trained sides get the same batches of 128 augmented images, SGD whose learning rate falls to zero as a cosine, and half
of their loss is distillation from the network as it came. The seed is that of the batches. Bytes are those of the file,
accuracies those of the network that is read from it. Rows are appended to ``FOLDER/size_trained.jsonl``; those that are
there are not run again.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from dataclasses import replace
from math import cos, pi
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import rows
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, IterableDataset
from trained import NETWORKS, Trained, accuracy, augmented, images, load

import lightning_compress as lc
from lightning_compress.core.packed_size import packed_bytes
from lightning_compress.core.plan import Plan
from lightning_compress.distillation.hinton import Hinton
from lightning_compress.quantization.coders.range_coded import RangeCoded
from lightning_compress.quantization.quantizers.rate_grid import RateGrid
from lightning_compress.quantization.rate_distortion import code_range
from lightning_compress.surgery import measure, transforms
from lightning_compress.surgery.structure import Structure, structure_of, write_structure

EXAMPLE = torch.zeros(2, 3, 32, 32)
BATCH = 128
CODER = RangeCoded(numbers="bfloat16")
SIDES = ("post-training", "frozen steps", "rate-trained")


class Images(IterableDataset):
    """Batches of augmented images, the same for the same seed."""

    def __init__(self, trained: Trained, train: tuple[Tensor, Tensor], steps: int, seed: int) -> None:
        self.trained, self.train, self.steps, self.seed = trained, train, steps, seed

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator, (x, y) = torch.Generator().manual_seed(self.seed), self.train
        order = torch.cat(
            [torch.randperm(len(x), generator=generator) for _ in range(self.steps * BATCH // len(x) + 1)]
        )
        for chosen in order[: self.steps * BATCH].split(BATCH):
            yield self.trained.normalized(augmented(x[chosen], generator)), y[chosen]


class Student(LightningModule):
    """A network and its training."""

    def __init__(self, net: nn.Module, lr: float, steps: int) -> None:
        super().__init__()
        self.net, self.lr, self.steps = net, lr, steps

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), self.lr, momentum=0.9, nesterov=True)
        falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (1 + cos(pi * step / self.steps)) / 2)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": falling, "interval": "step"}}


def plan_of(net: nn.Module, budget: int) -> Plan:
    """Return the coded bits that a file of the budget has room for."""
    profile = measure.measure(net, EXAMPLE)
    layers = [layer.name for layer in profile.weighted]
    whole = lc.RateQuantization().predict(Plan({name: {"coded_bits": 1} for name in layers}), profile)
    room = budget - packed_bytes(whole, lambda layer: 0, CODER.number_bytes)
    return Plan({name: {"coded_bits": 8 * room / sum(layer.weights for layer in profile.weighted)} for name in layers})


def settle(net: nn.Module) -> None:
    """Note how many bits hold the codes of weights that were trained on their grids alone."""
    record, changed = structure_of(net), []
    for layer in record.profile.weighted:
        module = net.get_submodule(layer.name)
        grid = next(t for t in transforms.weight_transforms(module) if isinstance(t, RateGrid))
        low, bits = code_range((module.weight.detach() / grid.scale).round().long())
        grid.set_range(low, bits)
        changed.append(replace(layer, weight_bits=bits))
    write_structure(net, Structure(record.profile.update(changed), record.applied, record.asked))


def quantized(
    net: nn.Module, side: str, budget: int, trained: Trained, train: Any, arguments: Any, seed: int
) -> tuple[int, nn.Module]:
    """Quantize and train a network in place; return bytes of its file, and the network that is read from it."""
    steps = 0 if side == "post-training" else arguments.steps
    student = Student(net, arguments.lr, max(steps, 1))
    data = DataLoader(Images(trained, train, max(steps, 8), seed), batch_size=None)
    rate: list[Any] = [lc.RateQuantization(plan_of(net, budget), CODER)]
    if side == "frozen steps":
        rate[0].calibrate(student, data)
        rate[0].apply(net, EXAMPLE)
    teacher = Student(copy.deepcopy(arguments.dense), 0.0, 1)
    callbacks = [] if side == "frozen steps" else rate
    callbacks = [*callbacks, lc.KnowledgeDistillation(teacher, Hinton(), weight=0.5)] if steps else callbacks
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    quiet |= {"precision": arguments.precision}
    net.train()
    Trainer(max_steps=steps, callbacks=callbacks, enable_model_summary=False, **quiet).fit(student, data)
    if side == "frozen steps":
        settle(net)
    with TemporaryDirectory() as folder:
        file = lc.save(net.eval(), Path(folder, "net"), coder=CODER)
        return file.stat().st_size, lc.load(file, trained.make())


def run(arguments: argparse.Namespace) -> None:
    """Add the rows that are missing, the sides taking turns."""
    torch.set_num_threads(1)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    file = arguments.folder / "size_trained.jsonl"
    train, test = images(arguments.npz, "train"), images(arguments.npz, "test")
    for name in arguments.networks:
        arguments.dense = load(name, arguments.nets)
        for seed in arguments.seeds:
            for budget in arguments.budgets:
                for side in arguments.sides:
                    given = {"net": name, "side": side, "budget": budget, "seed": seed, "steps": arguments.steps}
                    given |= {"lr": arguments.lr, "precision": arguments.precision}
                    if any(given.items() <= row.items() for row in rows.rows_of(file)):
                        continue
                    net = copy.deepcopy(arguments.dense)
                    size, read = quantized(net, side, budget, NETWORKS[name], train, arguments, seed)
                    rows.append(file, {**given, "bytes": size, "accuracy": accuracy(read, NETWORKS[name], *test)})


def table(arguments: argparse.Namespace) -> None:
    """Print all rows, by network and budget."""
    for row in sorted(rows.rows_of(arguments.folder / "size_trained.jsonl"), key=lambda r: (r["net"], -r["budget"])):
        told = f"{row['net']:22}{row['side']:15}{row['budget']:>9,}{row['seed']:>6}{row['steps']:>7}{row['lr']:>8g}"
        print(f"{told}{row['bytes']:>10,}{row['accuracy']:>9.2f} %")


def main() -> None:
    """Run or print."""
    asked, jobs, running = rows.asking(__doc__, run, steps=300)
    running.add_argument("--networks", nargs="+", default=["mlperf_tiny_resnet8"], choices=list(NETWORKS))
    running.add_argument("--budgets", type=int, nargs="+", default=[16_000], help="bytes of the file")
    running.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    running.add_argument("--lr", type=float, default=0.01, help="peak learning rate")
    rows.precise(running)
    rows.start(asked, jobs, table)


if __name__ == "__main__":
    main()
