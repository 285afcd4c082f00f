"""A policy learned on ResNet-18 at the start of a search on ResNet-34: ``python benchmarks/transfer_real.py``.

    python benchmarks/transfer_real.py --seeds 0 1 2

torchvision's networks, trained on scikit-learn's digits (16x16, three channels). Searches on ResNet-34 have equal
numbers of trials, from scratch and from the run on ResNet-18 of the same seed; each row is one run of train.py, and
finished runs are not run again. Rewards are those of the objective, of N2N against the size of the dense network in
both stages, so that runs whose first stages ended differently can be compared; accuracy and size after fine-tuning.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, pstdev

import numpy as np
from hydra.utils import instantiate
from omegaconf import OmegaConf
from whole_runs import run, slug

from lightning_compress.search.journal import journal_name, read
from lightning_compress.search.objectives.n2n_reward import N2NReward
from lightning_compress.vision.data.digits import Digits

SIZE, FIRST = 16, 10
SAME_FOR_ALL = [
    "data=npz", f"data.image_size={SIZE}", "data.shift=1", "data.flip=false", "data.batch_size=64", "model=torchvision",
    "epochs=10", "threads=1", "compress.baselines=null",
]  # fmt: skip
REMOVE, SHRINK, PRUNE = (f"compress.stages.{stage}" for stage in ("remove", "shrink", "prune"))


@dataclass(frozen=True)
class Way:
    """One kind of search: its option, its stages, settings, and trials on the source and on the target."""

    option: str
    stages: tuple[str, ...]
    settings: tuple[str, ...]
    source: int
    target: int

    def command(self, trials: int) -> list[str]:
        each = [f"compress.stages.{stage}.planner.trials={trials}" for stage in self.stages]
        return [f"+compress={self.option}", *self.settings, *each]


WAYS = {
    "N2N": Way(
        "n2n",
        ("remove", "shrink"),
        ("compress.evaluation.finetune_steps=10", f"{REMOVE}.epochs=2", f"{SHRINK}.epochs=4"),
        source=30,
        target=30,
    ),
    "DDPG": Way("drl_prune", ("prune",), (f"{PRUNE}.epochs=4",), source=100, target=40),
}


@dataclass(frozen=True)
class Outcome:
    """One run: rewards of the trials of each stage, and the fine-tuned network."""

    rewards: dict[str, list[float]]
    accuracy: float
    parameters: int
    macs: int


def outcome(way: Way, command: list[str], folder: Path) -> Outcome:
    """Run, or read what is there."""
    result = run(command, folder)
    stages = OmegaConf.load(folder / "hydra" / "config.yaml").compress.stages
    rewards = {}
    for stage in way.stages:
        objective = instantiate(stages[stage].planner.objective)
        if isinstance(objective, N2NReward):
            objective = replace(objective, cost0=result["dense"]["parameters"])
        entries = read(folder / stage / journal_name(""))
        rewards[stage] = [objective(entry.score) for entry in entries if entry.score is not None]
    last = result["compressed"]
    return Outcome(rewards, 100 * last["accuracy"], last["parameters"], last["macs"])


def write_digits(file: Path) -> None:
    """Return the digits with each pixel doubled in both directions, and three equal channels."""
    file.parent.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for part, split in Digits(10, 1, 8).splits().items():
        images = np.kron(split.images, np.ones((1, SIZE // 8, SIZE // 8), np.uint8))
        arrays |= {f"{part}_images": np.stack([images] * 3, -1), f"{part}_labels": split.labels}
    np.savez(file, **arrays)


def spread(values: list[float], width: int, digits: int) -> str:
    return f"{f'{mean(values):.{digits}f} +- {pstdev(values):.{digits}f}':>{width}}"


def rows(name: str, way: Way, found: dict[str, list[Outcome]]) -> list[str]:
    """Lines of the table: one for each start and stage, sizes and accuracy beside the last."""
    lines = []
    for start, runs in found.items():
        for stage in way.stages:
            rewards = [one.rewards[stage] for one in runs]
            line = f"{f'{name}, {stage}, {start}':36}"
            line += spread([max(each) for each in rewards], 18, 4)
            line += spread([mean(each[:FIRST]) for each in rewards], 18, 4)
            if stage == way.stages[-1]:
                line += spread([one.accuracy for one in runs], 16, 2)
                line += f"{mean(one.parameters for one in runs):12,.0f}{mean(one.macs for one in runs):12,.0f}"
            lines.append(line)
    cold, warm = found["from scratch"], found["warm"]
    for stage in way.stages:
        pairs = [(max(c.rewards[stage]), max(w.rewards[stage])) for c, w in zip(cold, warm, strict=True)]
        better = sum(w > c for c, w in pairs), sum(w == c for c, w in pairs)
        lines.append(f"  best reward of {stage}: warm is better in {better[0]}, equal in {better[1]} of {len(pairs)}")
    return lines


def main() -> None:
    """Run all rows, a seed at a time; print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", default="runs/transfer_real")
    parser.add_argument("--cache", default="cache")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    arguments = parser.parse_args()
    folder = Path(arguments.folder).absolute()
    data = folder / f"digits{SIZE}.npz"
    write_digits(data)
    print("python benchmarks/transfer_real.py --seeds", *arguments.seeds, flush=True)
    print(f"{'':36}{'best reward':>18}{f'first {FIRST}, mean':>18}{'accuracy %':>16}{'parameters':>12}{'MACs':>12}")
    for name in arguments.ways:
        way, found = WAYS[name], {"source": [], "from scratch": [], "warm": []}
        for seed in arguments.seeds:
            home = folder / slug(name) / str(seed)
            starts = {
                "source": ("resnet18", way.source, []),
                "from scratch": ("resnet34", way.target, []),
                "warm": ("resnet34", way.target, [f"compress.searcher.warm_start={home / 'source'}"]),
            }
            for start, (net, trials, more) in starts.items():
                command = [
                    *SAME_FOR_ALL, f"data.path={data}", f"model.net._target_=torchvision.models.{net}",
                    f"cache_dir={Path(arguments.cache).absolute()}", f"seed={seed}", *way.command(trials), *more,
                ]  # fmt: skip
                found[start].append(outcome(way, command, home / slug(start)))
        print("\n".join(rows(name, way, found)), flush=True)


if __name__ == "__main__":
    main()
