"""Channels of well-trained ResNets by our free plans and by its peers, after the same fine-tuning.

    python benchmarks/real/peers_prune.py run NETS cifar10.npz --shares 0.5 0.73 0.33 --seeds 0 1
    python benchmarks/real/peers_prune.py run NETS cifar10.npz --problem resnet56-macs --shares 0.476 0.4
    python benchmarks/real/peers_prune.py table

All sides prune the same network (that of a problem of bench.py) to the same share of its MACs, coupled channels of the
residual stream included, and then get the same batches: 8 of 128 for batch norms (ours: for the closed form and the
refit too; Torch-Pruning's Taylor: for gradients), and a fine-tuning with SGD whose learning rate falls to zero as a
cosine. Ours: Gram criterion and symmetric refit, the same ratio in every layer or the closed form's plan, its errors as
they are or weighed by probes; no candidate is scored. Torch-Pruning: its README's recipe, one step, the ratio bisected
to the MACs; ``local`` has the same ratio everywhere, the others rank over all layers. FastNAS: channels in multiples of
8, the same validation images as score, the same batches for batch norms; it searches once for all shares, and runs
where ``pip install --no-deps nvidia-modelopt==0.47.* torchprofile==0.0.4 pulp ninja`` was. The seed is that of the
fine-tuning.
Rows are appended to ``FOLDER/peers.jsonl``; those that are there are not run again.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from statistics import mean
from time import process_time
from typing import Any

import torch
import torch.nn.functional as F
import torch_pruning as tp
from bench import PROBLEMS, Bench, fine_tune
from rows import append, asking, compared, precise, rows_of, spread, start
from torch import nn
from trained import accuracy

from lightning_compress.core.costs.macs import MACs
from lightning_compress.core.least_error import least_error
from lightning_compress.surgery import measure

DIVISOR = 8  # of FastNAS's channels; at its default, 32, a ResNet-20 has next to nothing to choose
HALVINGS = 9  # of the interval that Torch-Pruning's ratio is searched in


def ours(bench: Bench, share: float, way: str) -> nn.Module:
    """Return the network under our uniform plan or the closed form's."""
    whole = MACs()(bench.composition.profile)
    budget = replace(bench.budget, limit=share * whole)
    if way == "ours, uniform":
        point = replace(bench.problem, budget=budget).start
    else:
        probes = bench.planner.batches if way == "ours, probes" else 0
        point = least_error(bench.errors_within(budget, probes), budget)
    net = copy.deepcopy(bench.module.net)
    bench.composition.apply(net, budget.space.plan(point))
    return net


def theirs(bench: Bench, share: float, way: str) -> nn.Module:
    """Return the network that Torch-Pruning makes, with the most channels that fit."""
    whole, example = MACs()(bench.composition.profile), bench.composition.example
    low, high, best = 0.0, 0.95, None
    for _ in range(HALVINGS):
        ratio = (low + high) / 2
        net = copy.deepcopy(bench.module.net)
        TORCH_PRUNING[way](bench, net, ratio)
        if MACs()(measure.measure(net, example)) <= share * whole:
            high, best = ratio, net
        else:
            low = ratio
    assert best is not None
    return best


def magnitude(bench: Bench, net: nn.Module, ratio: float, *, everywhere: bool) -> None:
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    _prune(bench, net, ratio, importance, everywhere=everywhere)


def taylor(bench: Bench, net: nn.Module, ratio: float) -> None:
    net.train()
    for x, y in bench.calibration:
        F.cross_entropy(net(x), y).backward()
    net.eval()
    _prune(bench, net, ratio, tp.importance.GroupTaylorImportance(), everywhere=True)
    net.zero_grad(set_to_none=True)


def scale(bench: Bench, net: nn.Module, ratio: float) -> None:
    _prune(bench, net, ratio, tp.importance.BNScaleImportance(), everywhere=True)


def fast_nas(bench: Bench, share: float) -> nn.Module:
    """Return the network that NVIDIA Model-Optimizer's FastNAS finds; not everybody has it who runs the other sides."""
    import modelopt.torch.prune as mtp
    from modelopt.torch.prune.fastnas import FastNASConfig

    config = FastNASConfig().model_dump()
    for kind in config.values():
        for settings in kind.values():
            for divisor in settings.keys() & {"channel_divisor", "feature_divisor"}:
                settings[divisor] = DIVISOR
    found, _ = mtp.prune(
        copy.deepcopy(bench.module.net),
        mode=[("fastnas", config)],
        constraints={"flops": f"{100 * share:g}%"},
        dummy_input=bench.composition.example[:1],
        config={
            "data_loader": bench.calibration,
            "collect_func": lambda batch: batch[0],
            "score_func": lambda net: accuracy(net, bench.known, *bench.validation),
            "checkpoint": str(bench.folder / "fastnas.pth"),
        },
    )
    return found


def _prune(bench: Bench, net: nn.Module, ratio: float, importance: Any, *, everywhere: bool) -> None:
    pruner = tp.pruner.MetaPruner(
        net, bench.composition.example, importance=importance, pruning_ratio=ratio, ignored_layers=[net.fc],
        global_pruning=everywhere, max_pruning_ratio=0.9,
    )  # fmt: skip
    pruner.step()


TORCH_PRUNING: dict[str, Callable[[Bench, nn.Module, float], None]] = {
    "Torch-Pruning, local": partial(magnitude, everywhere=False),
    "Torch-Pruning, global": partial(magnitude, everywhere=True),
    "Torch-Pruning, Taylor": taylor,
    "Torch-Pruning, BN scale": scale,
}
OURS = ("ours, uniform", "ours, closed form", "ours, probes")
FAST_NAS = "FastNAS"
WAYS = (*OURS, *TORCH_PRUNING, FAST_NAS)


def run(arguments: argparse.Namespace) -> None:
    """Add the rows that are missing, the sides taking turns."""
    torch.set_num_threads(1)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    file = arguments.folder / "peers.jsonl"
    rows = rows_of(file)
    done = {(row["seed"], row["way"], *case(row)) for row in rows}
    problem = arguments.problem
    bench = Bench(PROBLEMS[problem], arguments.nets, arguments.npz, arguments.folder / problem)
    for seed in arguments.seeds:
        for share in arguments.shares:
            for way in arguments.ways:
                row = {
                    "problem": problem,
                    "share": share,
                    "seed": seed,
                    "way": way,
                    "steps": arguments.steps,
                    "precision": arguments.precision,
                }
                if (seed, way, *case(row)) in done:
                    continue
                began = process_time()
                net = (
                    fast_nas(bench, share) if way == FAST_NAS else (ours if way in OURS else theirs)(bench, share, way)
                )
                taken = MACs()(measure.measure(net, bench.composition.example)) / MACs()(bench.composition.profile)
                module = copy.deepcopy(bench.module)
                module.net = net
                bench.recalibrate(module)
                before = accuracy(net, bench.known, *bench.test)
                fine_tune(
                    net, bench.known.normalized, bench.train,
                    lr=bench.case.lr, steps=arguments.steps, seed=seed, precision=arguments.precision,
                )  # fmt: skip
                parameters = sum(p.numel() for p in net.parameters())
                row |= {"taken": round(taken, 4), "parameters": parameters, "before": before}
                row |= {"after": accuracy(net, bench.known, *bench.test), "seconds": round(process_time() - began)}
                append(file, row)


def case(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what rows share that are compared."""
    return compared(row, "problem", "share", "steps")


def table(arguments: argparse.Namespace) -> None:
    """Print the rows by share of the MACs."""
    rows = rows_of(arguments.folder / "peers.jsonl")
    for own in sorted({case(row) for row in rows}, reverse=True):
        problem, share, steps, precision = own
        of = [row for row in rows if case(row) == own]
        print(f"\n{problem}, {100 * share:.0f} % of the MACs ({1 / share:.2f}x), {steps} steps, {precision}")
        print(f"{'':26}{'seeds':>6}{'MACs':>8}{'parameters':>12}{'recalibrated':>16}{'fine-tuned':>16}")
        groups = {way: [row for row in of if row["way"] == way] for way in WAYS}
        for way, found in sorted(groups.items(), key=lambda g: -mean([r["after"] for r in g[1]] or [0])):
            if found:
                cells = [spread([row[name] for row in found]) for name in ("before", "after")]
                size = f"{found[0]['taken']:8.4f}{found[0]['parameters']:12,}"
                print(f"{way:26}{len(found):6}{size}" + "".join(f"{cell:>16}" for cell in cells))


def main() -> None:
    """Run rows or print them."""
    asked, jobs, running = asking(__doc__, run, steps=100)
    running.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.73, 1 / 3], help="of the dense MACs")
    running.add_argument("--problem", choices=list(PROBLEMS), default="resnet20-macs")
    precise(running)
    running.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    start(asked, jobs, table)


if __name__ == "__main__":
    main()
