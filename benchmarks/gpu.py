"""Deep networks on CIFAR-10, as many runs of train.py side by side as there are cores, on one GPU.

    python benchmarks/gpu.py --npz cifar10.npz --jobs 15

Papers 5, 1 and 4 on the networks that they used (ResNet-50 and a LeNet-5 under joint; VGG-19 under the variational
stage of drl_two_stage; N2N on ResNet-34, from scratch and with the policies of ResNet-18's search), and the table of
searchers_real.py for ResNet-56 and VGG-16. Trainings are short, so that all fits into ten minutes of an H200; one seed.
Finished runs are not run again; a run that failed is named and left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from time import perf_counter

from methods import SAME_FOR_ALL
from searchers_real import DEEP, DENSE, HEADER, TRIALS, problems, row
from whole_runs import RESULT, run, slug

STAGES = "compress.stages"
SHORT = [f"{STAGES}.{stage}.planner.trials=12" for stage in ("remove", "shrink")]
N2N = [
    "+compress=n2n", "compress.baselines=null", *SHORT, f"{STAGES}.remove.epochs=2", f"{STAGES}.shrink.epochs=4",
    "compress.evaluation.finetune_steps=10", "compress.evaluation.validation_batches=2",
]  # fmt: skip
VARIATIONAL = ["+compress=drl_two_stage", f"~{STAGES}.prune", f"~{STAGES}.quantize", f"{STAGES}.variational.epochs=14"]
# Of the dense training.
EPOCHS = {**DENSE, "resnet50": 8, "lenet5": 20, "vgg19_bn": 14, "resnet18": 8, "resnet34": 8}
METHODS: dict[str, dict[str, list[str]]] = {
    "resnet50": {"joint, 3 % of the weight bits": ["+compress=joint", f"{STAGES}.joint.epochs=8",
                                                   f"{STAGES}.joint.callbacks.joint.every=88"]},
    "vgg19_bn": {"variational, strength 0.1": VARIATIONAL,
                 "variational, strength 1": [*VARIATIONAL, f"{STAGES}.variational.callbacks.variational.strength=1"]},
    "resnet18": {"N2N": N2N},
    "resnet34": {"N2N": N2N},
    "lenet5": {"joint, 3 % of the weight bits": ["+compress=joint", "finetune.lr=0.01", f"{STAGES}.joint.epochs=20",
                                                 f"{STAGES}.joint.callbacks.joint.every=88"]},
}  # fmt: skip
TRANSFER = "N2N, policies of ResNet-18"
SEARCHED = ("vgg16_bn", "resnet56")
LEFT_OUT = ("ChannelGA", "uniform, as long")  # a training for each of up to 30 layers


class Runs:
    """Runs by network and row; those of a network begin when its dense network is trained."""

    def __init__(self, pool: ThreadPoolExecutor, folder: Path, npz: str) -> None:
        self.pool, self.folder, self.npz = pool, folder.absolute(), npz
        self.results: dict[tuple[str, str], dict] = {}

    def place(self, network: str, name: str) -> Path:
        return self.folder / slug(network, name)

    def submit(self, network: str, name: str, overrides: list[str]) -> Future[tuple[str, str]]:
        """One run of train.py, in a thread that waits for it."""
        given = [*DEEP, f"model={network}", f"epochs={EPOCHS[network]}", f"data.path={self.npz}"]
        command = [*given, *SAME_FOR_ALL, f"cache_dir={self.folder / 'cache'}", *overrides]

        def work() -> tuple[str, str]:
            began = perf_counter()
            try:
                self.results[network, name] = run(command, self.place(network, name))
                print(line(network, name, self.results[network, name], perf_counter() - began), flush=True)
            except SystemExit as error:
                print(f"FAILED {network}: {name}\n{error}", file=sys.stderr, flush=True)
            return network, name

        return self.pool.submit(work)


def line(network: str, name: str, result: dict, seconds: float) -> str:
    """One run in one line."""
    dense, small = result["dense"], result["compressed"]
    accuracies = f"{100 * dense['accuracy']:6.2f} -> {100 * small['accuracy']:6.2f} %"
    sizes = "".join(f" {key} {small[key] / dense[key]:7.2%}" for key in ("bytes", "weight_bits", "macs", "parameters"))
    return f"{network:9s} {name:42s} {accuracies} {sizes} of dense; {seconds:4.0f} s of wall time"


def rows(network: str) -> dict[str, list[str]]:
    """Name -> overrides of all that begins with a network."""
    if network not in SEARCHED:
        return METHODS[network]
    return {
        f"{title}: {name}": overrides
        for title, table in problems(network).items()
        if not title.startswith("three")
        for name, (_, overrides) in table.items()
        if name not in LEFT_OUT
    }


def main() -> None:
    """Run everything, the tables last."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--npz", default="cifar10.npz")
    asked.add_argument("--jobs", type=int, default=15)
    asked.add_argument("--folder", default="runs/gpu")
    asked.add_argument("--networks", nargs="*", default=[*METHODS, *SEARCHED], help="none: only the tables")
    arguments = asked.parse_args()
    print("python benchmarks/gpu.py", *sys.argv[1:], flush=True)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        runs = Runs(pool, Path(arguments.folder), arguments.npz)
        untouched = ["+compress=prune", f"{STAGES}.prune.uniform.channels=1.0", f"{STAGES}.prune.epochs=0"]
        waiting = {runs.submit(network, "dense", untouched) for network in arguments.networks}
        while waiting:
            done = next(as_completed(waiting))
            waiting.remove(done)
            network, name = done.result()
            if (network, name) in runs.results:
                waiting |= {runs.submit(*job) for job in following(runs, network, name)}
    for network in SEARCHED:
        for title, table in problems(network).items():
            places = {name: runs.place(network, f"{title}: {name}") for name in table}
            if not any((place / RESULT).is_file() for place in places.values()):
                continue
            print(f"\n{network}: {title}, {TRIALS[network]} evaluations\n{HEADER}")
            for name, (stage, _) in table.items():
                if (places[name] / RESULT).is_file():
                    print(row(name, [(places[name], json.loads((places[name] / RESULT).read_text()))], stage))


def following(runs: Runs, network: str, name: str) -> list[tuple[str, str, list[str]]]:
    """Return what can begin now that a run has ended: network, row and overrides."""
    found = [(network, title, given) for title, given in rows(network).items()] if name == "dense" else []
    source, target = ("resnet18", "N2N"), ("resnet34", "dense")
    if (network, name) in (source, target) and {source, target} <= runs.results.keys():
        found.append(("resnet34", TRANSFER, [*N2N, f"compress.searcher.warm_start={runs.place(*source)}"]))
    return found


if __name__ == "__main__":
    main()
