"""Joint sparsity and bits on a well-trained ResNet-20, beside magnitude pruning and k-means of our own parts.

    python benchmarks/real/joint.py run NETS cifar10.npz --seeds 0 1 2 --steps 120
    python benchmarks/real/joint.py table

Both sides compress akamaster_resnet20 (see trained.py) to the same share of its weight bits, codes of nonzero weights
alone, as paper 5 counts them. They have the same batches of 128 images, SGD and one cycle of the learning rate, and the
dense network as teacher, half of the loss. The baseline prunes network-wide by magnitude at once and trains half of the
steps, then gets codes of so many bits by k-means and trains the rest, each with a cycle. ``joint`` has the defaults of
``+compress=joint``; ``joint{"end": 0.5}`` and the like change settings of its callback. Bytes are those of the packed
file, in fixed width and range-coded. The seed is that of the batches. Rows are appended to ``FOLDER/joint.jsonl``;
those that are there are not run again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from time import process_time
from typing import Any

import torch
from bench import BATCH
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from rows import append, asking, compared, precise, rows_of, spread, start
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from trained import NETWORKS, Trained, accuracy, augmented, images, load

import lightning_compress as lc
from lightning_compress.callbacks.joint import JointSparsityQuantization
from lightning_compress.core.costs.weight_bits import WeightBits
from lightning_compress.pipeline.quiet import quiet
from lightning_compress.pruning.scopes.network_wide import NetworkWide
from lightning_compress.quantization.coders.fixed_width import FixedWidth
from lightning_compress.quantization.coders.range_coded import RangeCoded
from lightning_compress.quantization.quantizers.codebook import Codebook
from lightning_compress.surgery import measure
from lightning_compress.surgery.structure import applied_structure
from lightning_compress.vision.models.classifier import ImageClassifier

NETWORK = "akamaster_resnet20"


class Batches(Dataset[tuple[Tensor, Tensor]]):
    """Augmented batches by their number."""

    def __init__(self, known: Trained, x: Tensor, y: Tensor, numbers: range, seed: int) -> None:
        self.known, self.x, self.y, self.numbers, self.seed = known, x, y, numbers, seed

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index >= len(self):
            raise IndexError
        generator = torch.Generator().manual_seed(100_000 * self.seed + self.numbers[index])
        chosen = torch.randint(len(self.x), (BATCH,), generator=generator)
        return self.known.normalized(augmented(self.x[chosen], generator)), self.y[chosen]


class Bench:
    """The network and its data in memory."""

    def __init__(self, nets: Path, npz: Path, lr: float, precision: str) -> None:
        self.nets, self.known, self.lr, self.precision = nets, NETWORKS[NETWORK], lr, precision
        self.train, self.test = images(npz, "train"), images(npz, "test")
        self.teacher = self.module()
        self.layers = [layer.name for layer in measure.measure(self.teacher.net, self.example).weighted]

    @property
    def example(self) -> Tensor:
        """Two images."""
        return self.known.normalized(self.train[0][:2])

    def module(self) -> ImageClassifier:
        """Return a module with the dense network."""
        return ImageClassifier(load(NETWORK, self.nets), 10, lr=self.lr)

    def plan(self, **knobs: float) -> dict[str, dict[str, float]]:
        """Return the same numbers for all layers."""
        return {name: dict(knobs) for name in self.layers}

    def fit(self, module: LightningModule, callbacks: Sequence[Callback], numbers: range, seed: int) -> None:
        """Train on the batches of these numbers."""
        with quiet():
            trainer = Trainer(
                max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
                enable_model_summary=False, callbacks=[*callbacks, lc.KnowledgeDistillation(self.teacher)],
                precision=self.precision,
            )  # fmt: skip
            trainer.fit(module, DataLoader(Batches(self.known, *self.train, numbers, seed), None))

    def joint(self, share: float, steps: int, seed: int, settings: dict[str, Any]) -> nn.Module:
        """Return the network after joint training."""
        module = self.module()
        callback = JointSparsityQuantization(self.plan(joint=1), **{"limits": (share,), **settings})
        self.fit(module, [callback], range(steps), seed)
        return module.net

    def magnitude(self, share: float, steps: int, seed: int, bits: int) -> nn.Module:
        """Return the network after pruning, training, k-means and training."""
        module = self.module()
        pruning = lc.WeightPruning(self.plan(density=share * 32 / bits), scope=NetworkWide())
        self.fit(module, [pruning], range(steps // 2), seed)
        codes = lc.QuantizationAwareTraining(self.plan(weight_bits=bits), weight_quantizer=Codebook)
        self.fit(module, [codes], range(steps // 2, steps), seed)
        return module.net


def run(arguments: argparse.Namespace) -> None:
    """Add the rows that are missing, the sides taking turns."""
    torch.set_num_threads(1)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    file = arguments.folder / "joint.jsonl"
    done = {compared(row, *KEY) for row in rows_of(file)}
    bench = Bench(arguments.nets, arguments.npz, arguments.lr, arguments.precision)
    for seed in arguments.seeds:
        for way in arguments.ways:
            row = {"way": way, "share": arguments.share, "steps": arguments.steps, "lr": arguments.lr, "seed": seed}
            row |= {"precision": arguments.precision}
            if compared(row, *KEY) in done:
                continue
            began = process_time()
            if way.startswith("joint"):
                net = bench.joint(arguments.share, arguments.steps, seed, json.loads(way[5:] or "{}"))
            else:
                net = bench.magnitude(arguments.share, arguments.steps, seed, int(way.rpartition(" ")[2]))
            net.eval()
            with tempfile.TemporaryDirectory() as folder:
                sizes = [lc.save(net, Path(folder) / "a", coder=c).stat().st_size for c in (FixedWidth(), RangeCoded())]
            row |= {"test": accuracy(net, bench.known, *bench.test), "bytes": sizes[0], "coded": sizes[1]}
            row |= {"weight_bits": WeightBits()(applied_structure(net).profile)}
            row |= {"seconds": round(process_time() - began)}
            append(file, row)


KEY = ("way", "share", "steps", "lr", "seed")


def table(arguments: argparse.Namespace) -> None:
    """Print the rows, the best first."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows_of(arguments.folder / "joint.jsonl"):
        groups.setdefault((*compared(row, "steps", "lr"), row["way"]), []).append(row)
    head = f"{'':34}{'steps':>7}{'rate':>7}{'precision':>12}{'seeds':>6}{'bytes':>10}{'coded':>10}"
    print(f"{head}{'test accuracy':>18}")
    ordered = sorted(groups.items(), key=lambda group: (group[0][:3], -mean(row["test"] for row in group[1])))
    for (steps, lr, precision, way), rows in ordered:
        sizes = [mean(row[name] for row in rows) for name in ("bytes", "coded") if name in rows[0]]
        cells = "".join(f"{size:10,.0f}" for size in sizes)
        told = f"{way:34}{steps:7}{lr:7g}{precision:>12}{len(rows):6}{cells:20}"
        print(f"{told}{spread([row['test'] for row in rows]):>18}")


def main() -> None:
    """Run rows or print them."""
    asked, jobs, running = asking(__doc__, run, steps=120)
    running.add_argument("--ways", nargs="+", default=["magnitude and k-means, 4", "joint"])
    running.add_argument("--share", type=float, default=0.03, help="of the fp32 bits of the weights")
    running.add_argument("--lr", type=float, default=0.02, help="peak learning rate")
    precise(running)
    start(asked, jobs, table)


if __name__ == "__main__":
    main()
