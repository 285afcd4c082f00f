"""Bits of each layer after training only, at equal bytes of weights: ours beside Sony's Model Compression Toolkit.

    python benchmarks/real/peers_mixed.py run NETS cifar10.npz --bits 4 3 2.5
    python benchmarks/real/peers_mixed.py table

Bits of weights may differ from layer to layer and take no more than so many on average, inputs have 8. No network is
trained, no candidate is scored, and no label is read. All sides measure on the same first 512 train images; the
accuracy is that of all 10,000 test images, so nothing is drawn at random.

    uniform        the same bits everywhere: what fits of 2 to 8
    closed form    ``+compress=plan_quant`` with the cost ``weight_bits``: 2 to 8 bits
    MCT            its mixed precision after training (2.6, an integer program over its own sensitivities)
    2, 4, 8        the closed form, of the bits that MCT chooses from

MCT runs where ``pip install --no-deps model-compression-toolkit==2.6.1`` was, and what that needs:
``pip install PuLP tqdm matplotlib scikit-image scikit-learn networkx pandas tensorboard mct-quantizers edge-mdt-cl``.
Rows are appended to ``FOLDER/mixed.jsonl``; those that are there are not run again.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator
from functools import lru_cache

import torch
from bench import BITS, Bench, Case
from quantized import CALIBRATION, quantized
from rows import append, data_job, rows_of, start
from torch import Tensor, nn
from trained import NETWORKS, accuracy

from lightning_compress.core.least_error import least_error

Side = Callable[[Bench, nn.Module, Tensor], nn.Module]
THEIRS = "compress.stages.quantize.callbacks.quantization.weight_bits=[2,4,8]"


def closed_form(bench: Bench, net: nn.Module, x: Tensor) -> nn.Module:
    """Quantize a network by the plan of the closed form."""
    return _ours(bench, least_error(bench.errors, bench.budget), net, x)


def uniform(bench: Bench, net: nn.Module, x: Tensor) -> nn.Module:
    """Quantize a network by the largest plan of equal bits."""
    return _ours(bench, bench.problem.start, net, x)


def _ours(bench: Bench, point: tuple[int, ...], net: nn.Module, x: Tensor) -> nn.Module:
    return quantized(net, bench.composition.resolve(bench.budget.space.plan(point)), x)


def mct(bench: Bench, net: nn.Module, x: Tensor) -> nn.Module:
    """Quantize a network by MCT, weights in as many bytes as the budget has."""
    import model_compression_toolkit as toolkit

    def batches() -> Iterator[list[Tensor]]:
        for batch in x.split(64):
            yield [batch]

    made, _ = toolkit.ptq.pytorch_post_training_quantization(
        net.eval(),
        batches,
        toolkit.core.ResourceUtilization(weights_memory=bench.budget.limit / 8),
        toolkit.core.CoreConfig(mixed_precision_config=toolkit.core.MixedPrecisionQuantizationConfig()),
    )
    return made


SIDES: dict[str, tuple[tuple[str, ...], Side]] = {
    "uniform": ((), uniform),
    "closed form": ((), closed_form),
    "MCT": ((), mct),
    "2, 4, 8": ((THEIRS,), closed_form),
}


def run(arguments: argparse.Namespace) -> None:
    """Add the rows that are missing."""
    torch.set_num_threads(1)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    file = arguments.folder / "mixed.jsonl"

    @lru_cache(maxsize=1)  # sides of the same choices come one after the other; each holds all images
    def bench_of(name: str, bits: float, overrides: tuple[str, ...]) -> Bench:
        case = Case(name, "drl_quant", bits / 32, (*BITS, *overrides))
        return Bench(case, arguments.nets, arguments.npz, arguments.folder / f"{name}-{bits}")

    for name in arguments.networks:
        for bits in arguments.bits:
            for side in arguments.sides:
                given = {"net": name, "bits": bits, "side": side}
                if any(given.items() <= row.items() for row in rows_of(file)):
                    continue
                overrides, quantize = SIDES[side]
                bench = bench_of(name, bits, overrides)
                x = bench.known.normalized(bench.train[0][:CALIBRATION])
                net = quantize(bench, copy.deepcopy(bench.module.net), x)
                append(file, {**given, "accuracy": accuracy(net, bench.known, *bench.test)})


def table(arguments: argparse.Namespace) -> None:
    """Print the rows, by network and bits."""
    rows = rows_of(arguments.folder / "mixed.jsonl")
    for name, bits in dict.fromkeys((row["net"], row["bits"]) for row in rows):
        print(f"\n{name}, {bits:g} bits a weight on average")
        for row in rows:
            if (row["net"], row["bits"]) == (name, bits):
                print(f"{row['side']:14}{row['accuracy']:8.2f} %")


def main() -> None:
    """Run rows or print them."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = asked.add_subparsers(required=True)
    running = data_job(jobs, "run", "add the rows that are missing", run)
    running.add_argument(
        "--networks", nargs="+", default=["bsq_resnet20", "mlperf_tiny_resnet8"], choices=list(NETWORKS)
    )
    running.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    running.add_argument("--bits", type=float, nargs="+", default=[4.0, 3.0, 2.5], help="of a weight, on average")
    start(asked, jobs, table)


if __name__ == "__main__":
    main()
