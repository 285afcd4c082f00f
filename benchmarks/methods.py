"""Every method against its trivial baseline through the whole application, on digits or CIFAR-10.

    python benchmarks/methods.py digits --seeds 0 1 2
    python benchmarks/methods.py cifar --seeds 0 1 --npz cifar10.npz --ckpt cache/dense-01a4bfce4259/final.ckpt

The checkpoint is the dense network of the same line without ``--ckpt`` and with seed 0: so that all seeds, which are
those of the fine-tuning, begin with one network. On digits each seed trains its own.

Each row is one run of train.py; finished runs are not run again. Accuracies are of the test set, of the packed file
that was loaded again; sizes are of that file. Rows of one block have equal costs or say what they cost.
"""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from statistics import mean, pstdev

from whole_runs import parser, run, slug

SAME_FOR_ALL = ["threads=1"]
DIGITS = ["epochs=30"]
CIFAR = ["experiment=cifar10_resnet20", "data=npz", "epochs=5", "+trainer.limit_train_batches=150"]
EPOCHS = {"digits": 20, "cifar": 1}
STRENGTH = 4  # of the KL of weight noise on CIFAR-10, whose training is some hundred times shorter than the paper's
LONGER = 3  # times as many where sparsity is an outcome of the training, or much is removed at once

SPARSE, PRUNE, QUANT = "compress.stages.sparsify", "compress.stages.prune", "compress.stages.quantize"
REMOVE, NOISE, JOINT = "compress.stages.remove", "compress.stages.noise", "compress.stages.joint"
RANKS = "compress.stages.factorize"
UNIFORM = f"compress/planner@{REMOVE}.planner=uniform"
IGNORED = "callbacks.weights.ignore=[conv1]"  # whose inputs are too few for 2:4
LIMITS = f"{JOINT}.callbacks.joint.limits=[0.1,0.05,0.03]"
BLOCKS: dict[str, dict[str, tuple[str, list[str]]]] = {
    "a tenth of the weights (variational: as many as it leaves)": {
        "same density, one-shot (baseline)": (
            "sparsify", ["compress.uniform.density=0.1", "compress/schedule=one_shot"]),
        "same density, cubic": ("sparsify", ["compress.uniform.density=0.1"]),
        "same density, iterative": ("sparsify", ["compress.uniform.density=0.1", "compress/schedule=iterative"]),
        "network-wide magnitude, cubic (baseline)": (
            "sparsify", ["compress.uniform.density=0.1", "compress/scope=network_wide"]),
        "network-wide, as long as variational (baseline)": (
            "sparsify", ["compress.uniform.density=0.1", "compress/scope=network_wide", f"{SPARSE}.epochs=LONGER"]),
        "kernels, network-wide, cubic": (
            "sparsify", ["compress.uniform.density=0.1", "compress/scope=network_wide", "compress/pattern=kernel"]),
        "half of the weights (baseline)": ("sparsify", ["compress.uniform.density=0.5", f"{SPARSE}.{IGNORED}"]),
        "2:4 (half of the weights)": (
            "sparsify", ["compress.uniform.density=0.5", "compress/pattern=n_of_m", f"{SPARSE}.{IGNORED}"]),
        "variational, elements": ("variational", []),
        "variational, kernels": ("variational", ["compress/pattern=kernel"]),
    },
    "keep-ratio 0.6 everywhere": {
        "random channels (baseline)": ("prune", ["compress.uniform.channels=0.6", "compress/criterion=random"]),
        "L2 (baseline)": ("prune", ["compress.uniform.channels=0.6"]),
        "Taylor": ("prune", ["compress.uniform.channels=0.6", "compress/criterion=taylor"]),
        "Gram": ("prune", ["compress.uniform.channels=0.6", "compress/criterion=gram"]),
        "Gram, symmetric refit": (
            "prune", ["compress.uniform.channels=0.6", "compress/criterion=gram", "compress/refit=symmetric"]),
        "L2, asymmetric refit": ("prune", ["compress.uniform.channels=0.6", "compress/refit=asymmetric"]),
        "L2, symmetric refit, no fine-tuning": (
            "prune", ["compress.uniform.channels=0.6", "compress/refit=symmetric", f"{PRUNE}.epochs=0"]),
        "L2, no fine-tuning (baseline)": ("prune", ["compress.uniform.channels=0.6", f"{PRUNE}.epochs=0"]),
    },
    "keep-ratio 0.6 after training with noise on channels, as long again": {
        "L2, no noise (baseline)": (
            "information", ["compress.uniform.channels=0.6", "compress/criterion=l2", f"~{NOISE}.callbacks.noise"]),
        "log-normal dropout, signal to noise": ("log_normal", ["compress.uniform.channels=0.6"]),
        "information dropout, information": ("information", ["compress.uniform.channels=0.6"]),
    },
    "factors of half the channels (MACs as keep-ratio 0.6)": {
        "Tucker-2": ("low_rank", []),
        "Tucker-2, two sweeps of HOOI": ("low_rank", [f"{RANKS}.callbacks.low_rank.refinements=2"]),
        "Tucker-2, no fine-tuning": ("low_rank", [f"{RANKS}.epochs=0"]),
    },
    "all blocks removed that can be": {
        "new weights, no teacher (baseline)": (
            "remove", [UNIFORM, "compress/initializer=restart", f"{REMOVE}.distillation=null"]),
        "new weights, Hinton": ("remove", [UNIFORM, "compress/initializer=restart"]),
        "new weights, logit MSE": (
            "remove", [UNIFORM, "compress/initializer=restart", "compress/loss=logit_mse"]),
        "new weights, attention transfer": ("attention", ["compress/initializer=restart"]),
        "new weights, FitNets": ("attention", ["compress/initializer=restart", "compress/feature_loss=feature_mse"]),
        "new weights, FitNets, a tenth of the weight": (
            "attention", ["compress/initializer=restart", "compress/feature_loss=feature_mse",
                          f"{REMOVE}.distillation.weight=0.1"]),
        "new weights, FitNets, middle stage alone": (
            "attention", ["compress/initializer=restart", "compress/feature_loss=feature_mse",
                          f"{REMOVE}.distillation.layers=[layer2]"]),
        "inherited weights, Hinton": ("remove", [UNIFORM, "compress/initializer=inherit"]),
        "least squares, Hinton": ("remove", [UNIFORM]),
    },
    "half of the MACs, layer by layer": {
        "same ratio everywhere, at once (baseline)": ("prune", ["compress.uniform.channels=0.7", f"{PRUNE}.epochs=26"]),
        "by sensitivity, L2": ("ga_channel", ["compress/criterion=l2", f"{PRUNE}.steps_between=16"]),
        "by sensitivity, Gram": ("ga_channel", ["compress/criterion=gram", f"{PRUNE}.steps_between=16"]),
        "by sensitivity, genetic": ("ga_channel", [f"{PRUNE}.steps_between=16"]),  # an epoch
    },
    "two bits for every weight, inputs in eight": {
        "min-max (baseline)": (
            "quant", ["compress.uniform.weight_bits=2", "compress/quantizer@compress.weight_quantizer=min_max"]),
        "LSQ": ("quant", ["compress.uniform.weight_bits=2"]),
        "DoReFa": (
            "quant", ["compress.uniform.weight_bits=2", "compress/quantizer@compress.weight_quantizer=dorefa"]),
        "PACT": (
            "quant", ["compress.uniform.weight_bits=2", "compress/quantizer@compress.activation_quantizer=pact"]),
        "DoReFa, PACT": (
            "quant", ["compress.uniform.weight_bits=2", "compress/quantizer@compress.weight_quantizer=dorefa",
                      "compress/quantizer@compress.activation_quantizer=pact"]),
        "codebook": ("codebook", ["compress.uniform.weight_bits=2"]),
        "codebook, range-coded": ("codebook", ["compress.uniform.weight_bits=2", "compress/coder=range_coded"]),
    },
    "3 % of the weight bits": {
        "quarter of the weights, then four bits (baseline)": (
            "sparsify", ["compress.uniform.density=0.24", f"{SPARSE}.epochs=TWICE", f"{QUANT}.epochs=ONCE",
                         "+compress/stage@compress.stages.quantize=quantize",
                         "+compress/quantizer@compress.weight_quantizer=lsq",
                         "+compress.uniform={weight_bits:4,act_bits:8}",
                         "+compress/quantizer@compress.activation_quantizer=lsq_activation"]),
        "joint (ADMM)": ("joint", [LIMITS]),
        "joint (ADMM), range-coded": ("joint", [LIMITS, "+compress/coder=range_coded"]),
        "joint, positions and codebooks counted: 3 %": ("joint", [LIMITS, "compress/account=file"]),
        "joint, positions and codebooks counted: 5.5 %": (
            "joint", [f"{JOINT}.callbacks.joint.limits=[0.15,0.08,0.055]", "compress/account=file"]),
    },
}  # fmt: skip


STAGES = {
    "sparsify": ["sparsify"], "variational": ["variational"], "prune": ["prune"], "ga_channel": ["prune"],
    "joint": ["joint"], "low_rank": ["factorize"], "remove": ["remove"], "attention": ["remove"],
    "log_normal": ["noise", "prune"], "information": ["noise", "prune"], "quant": ["quantize"],
    "codebook": ["quantize"],
}  # fmt: skip


CIFAR_ONLY = {
    "joint": [f"{JOINT}.callbacks.joint.every=25"],
    "variational": [f"compress.stages.variational.callbacks.variational.strength={STRENGTH}"],
}
DIGITS_ONLY = ("half of the MACs, layer by layer",)  # a dozen trainings a row: see searchers_real.py for CIFAR-10


def overrides(data: str, option: str, given: list[str]) -> list[str]:
    """Return the command line of one row: every stage trains equally long where the row does not say otherwise."""
    number = EPOCHS[data] * (LONGER if option in ("variational", "joint", "remove", "attention") else 1)
    epochs = [f"compress.stages.{stage}.epochs={number}" for stage in STAGES[option]]
    times = {"ONCE": 1, "TWICE": 2, "LONGER": LONGER}
    for word, factor in times.items():
        given = [g.replace(word, str(factor * EPOCHS[data])) for g in given]
    return [f"+compress={option}", *epochs, *(CIFAR_ONLY.get(option, []) if data == "cifar" else []), *given]


def main() -> None:
    """Run all rows, print the table after each block."""
    asked = parser(__doc__ or "", EPOCHS)
    asked.add_argument("--rows", nargs="+", default=["*"], help="only rows whose names match one of these globs")
    arguments = asked.parse_args()
    base = DIGITS if arguments.data == "digits" else [*CIFAR, f"data.path={arguments.npz}"]
    base = [*base, f"ckpt={arguments.ckpt}"] if arguments.ckpt else base
    print("python benchmarks/methods.py", arguments.data, "--seeds", *arguments.seeds, flush=True)
    for block, rows in BLOCKS.items():
        if arguments.data == "cifar" and block in DIGITS_ONLY:
            continue
        print(f"\n{block}\n{'':48s}{'accuracy %':>16s}{'points':>16s}{'bytes':>9s}{'weight bits':>12s}{'MACs':>12s}")
        for name, (option, given) in rows.items():
            if not any(fnmatch(name, glob) for glob in arguments.rows):
                continue
            found = []
            for seed in arguments.seeds:
                command = [*base, *SAME_FOR_ALL, f"cache_dir={arguments.cache}", f"seed={seed}"]
                folder = Path(arguments.folder).absolute() / "methods" / arguments.data / slug(block, name) / str(seed)
                found.append(run([*command, *overrides(arguments.data, option, given)], folder))
            print(_row(name, found), flush=True)


def _row(name: str, found: list[dict]) -> str:
    accuracy = [100 * r["compressed"]["accuracy"] for r in found]
    points = [a - 100 * r["dense"]["accuracy"] for a, r in zip(accuracy, found, strict=True)]
    sizes = "".join(
        f"{mean(r['compressed'][key] for r in found):{width},.0f}"
        for key, width in (("bytes", 9), ("weight_bits", 12), ("macs", 12))
    )
    spread = [f"{mean(values):.2f} +- {pstdev(values):.2f}" for values in (accuracy, points)]
    return f"{name:48s}{spread[0]:>16s}{spread[1]:>16s}{sizes}"


if __name__ == "__main__":
    main()
