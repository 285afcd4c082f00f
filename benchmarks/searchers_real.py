"""Every searcher at equal evaluations on a real network, and the plans that they find after the same fine-tuning.

    python benchmarks/searchers_real.py digits --seeds 0 1 2
    python benchmarks/searchers_real.py cifar --seeds 0 --npz cifar10.npz --ckpt cache/dense-01a4bfce4259/final.ckpt
    python benchmarks/searchers_real.py resnet56 --npz cifar10.npz

The checkpoint is the dense ResNet-20 that ``methods.py cifar`` trains; resnet56 and vgg16_bn are for a GPU. Keep-ratios
under half of the MACs, and bits of weights under four or three on average (inputs in eight bits). Each row is one run
of train.py; finished runs are not run again. Before: the best validation accuracy (%) of the search and its reward
(accuracy less a tenth of the loss); after: test accuracy of the packed file, fine-tuned by the best plan. Knapsack and
ChannelGA do not score plans before that; and since ChannelGA also trains after each of its layers and longer at the
end, "uniform, as long" is what to compare it with.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean, pstdev

from methods import DIGITS, SAME_FOR_ALL
from whole_runs import parser, run, slug

from lightning_compress.search.journal import journal_name, read
from lightning_compress.search.objectives.objective import AccuracyUnderBudget

TRIALS = {"digits": 60, "cifar": 40, "resnet56": 30, "vgg16_bn": 30}
CIFAR = ["experiment=cifar10_resnet20", "data=npz", "+trainer.limit_train_batches=50"]
DEEP = ["data=npz", "data.batch_size=256"]
DENSE = {"resnet56": 12, "vgg16_bn": 14}  # epochs of the deep networks
PRUNE, QUANT = "compress.stages.prune", "compress.stages.quantize"
EPOCHS = {"digits": 20, "cifar": 1, "resnet56": 2, "vgg16_bn": 2}
# ChannelGA's steps after each layer and epochs at the end, and the epochs of a uniform ratio that trains as long.
LONG = {"digits": (16, 20, 26), "cifar": (8, 11, 13), "resnet56": (20, 8, 11), "vgg16_bn": (20, 8, 9)}
FEWER = ["compress.evaluation.validation_batches=2", "compress.evaluation.recalibration_batches=4"]
CHEAPER = {"digits": [], "cifar": FEWER, "resnet56": FEWER, "vgg16_bn": FEWER}
SEARCHERS = ("uniform", "random", "greedy", "ddpg", "td3", "sac", "reinforce", "genecai", "nsga2", "optuna")
HEADER = f"{'':16s}{'before: accuracy':>20s}{'reward':>20s}{'after: accuracy':>20s}{'points':>20s}"
OBJECTIVE = AccuracyUnderBudget()
BITS = [f"{QUANT}.callbacks.quantization.act_bits=[8]", "compress/cost=weight_bits"]


def problems(data: str) -> dict[str, dict[str, tuple[str, list[str]]]]:
    """Title -> row -> stage and overrides."""
    found: dict[str, dict[str, tuple[str, list[str]]]] = {}
    for title, option, stage, own, other in (
        ("keep-ratios, half of the MACs", "drl_prune", "prune", [], ("ChannelGA", "ga_channel")),
        ("bits, four on average", "drl_quant", "quantize", _bits(4), ("Knapsack", "knapsack_quant")),
        ("three bits on average", "drl_quant", "quantize", _bits(3), ("Knapsack", "knapsack_quant")),
    ):
        common = [*own, f"compress.stages.{stage}.epochs={EPOCHS[data]}"]
        cheaper = CHEAPER[data]
        found[title] = {
            name: (
                stage,
                [f"+compress={option}", f"compress/searcher={name}", "compress.baselines=null",
                 f"compress.stages.{stage}.planner.trials={TRIALS[data]}", *common, *cheaper],
            )
            for name in SEARCHERS
        }  # fmt: skip
        name, option = other
        found[title][name] = (stage, [f"+compress={option}", *common, *cheaper])
    keep, (steps, end, together) = found["keep-ratios, half of the MACs"], LONG[data]
    keep["ChannelGA"] = ("prune", [*keep["ChannelGA"][1], f"{PRUNE}.steps_between={steps}", f"{PRUNE}.epochs={end}"])
    keep["uniform, as long"] = ("prune", [*keep["uniform"][1], f"{PRUNE}.epochs={together}"])
    return found


def _bits(average: int) -> list[str]:
    return [f"{QUANT}.planner.budget={average / 32}", *BITS]


def row(name: str, folders: list[tuple[Path, dict]], stage: str) -> str:
    """One line of the table."""
    before, rewards = [], []
    for folder, _ in folders:
        journal = folder / stage / journal_name("")
        scores = [entry.score for entry in read(journal) if entry.score] if journal.is_file() else []
        if scores:
            best = max(scores, key=OBJECTIVE)
            before.append(100 * best.metrics["val_acc"])
            rewards.append(OBJECTIVE(best))
    after = [100 * result["compressed"]["accuracy"] for _, result in folders]
    points = [a - 100 * result["dense"]["accuracy"] for a, (_, result) in zip(after, folders, strict=True)]
    cells = [
        f"{mean(values):.{digits}f} +- {pstdev(values):.{digits}f}" if values else "-"
        for values, digits in ((before, 2), (rewards, 4), (after, 2), (points, 2))
    ]
    return f"{name:16s}" + "".join(f"{cell:>20s}" for cell in cells)


def base(data: str, npz: str, ckpt: str | None) -> list[str]:
    """Return the overrides of data, network and dense training, the same for all rows."""
    if data == "digits":
        return DIGITS
    source = [f"data.path={npz}", *([f"ckpt={ckpt}"] if ckpt else [])]
    return [*CIFAR, *source] if data == "cifar" else [*DEEP, f"model={data}", f"epochs={DENSE[data]}", *source]


def main() -> None:
    """Run all rows, print a table for each problem."""
    asked = parser(__doc__ or "", EPOCHS)
    asked.add_argument("--rows", nargs="+", default=[], help="only these searchers")
    asked.add_argument("--problems", nargs="+", default=["keep-ratios", "bits", "three"], help="only these")
    arguments = asked.parse_args()
    print("python benchmarks/searchers_real.py", arguments.data, "--seeds", *arguments.seeds, flush=True)
    for title, rows in problems(arguments.data).items():
        if not title.startswith(tuple(arguments.problems)):
            continue
        print(f"\n{title}, {TRIALS[arguments.data]} evaluations")
        print(HEADER, flush=True)
        for name, (stage, overrides) in rows.items():
            if arguments.rows and name not in arguments.rows:
                continue
            found = []
            for seed in arguments.seeds:
                home = Path(arguments.folder).absolute() / "searchers" / arguments.data
                folder = home / slug(title, name) / str(seed)
                given = base(arguments.data, arguments.npz, arguments.ckpt)
                command = [*given, *SAME_FOR_ALL, f"cache_dir={arguments.cache}", f"seed={seed}", *overrides]
                found.append((folder, run(command, folder)))
            print(row(name, found, stage), flush=True)


if __name__ == "__main__":
    main()
