"""Prune half of all channels of third-party networks with random weights, beside Torch-Pruning's own recipe.

    python benchmarks/networks.py                      # all networks, each in a process of its own
    python benchmarks/networks.py convnext_tiny        # some
    python benchmarks/networks.py --table              # what was measured so far

Each network is one line of results/networks.jsonl; those that have one are not measured again. Columns: groups that can
be pruned, layers kept whole, MACs left at keep 0.5 everywhere (ours, Torch-Pruning's), CPU seconds of each, their ratio
with its least and greatest, the modes in which the pruned network runs, and the commit. Where both succeed they run
three times in turn, and the seconds are medians. Results: results/networks.txt.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import resource
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
import torch_pruning
import torchvision
from torch import nn

from lightning_compress import ChannelPruning, Plan  # which imports Lightning before the clock runs
from lightning_compress.surgery import measure
from lightning_compress.surgery.modes import evaluation, training

TORCHVISION = (
    "resnet18", "resnet50", "vgg16_bn", "mobilenet_v2", "mobilenet_v3_small", "densenet121", "efficientnet_b0",
    "convnext_tiny", "regnet_x_400mf", "regnet_y_400mf", "shufflenet_v2_x0_5", "googlenet", "inception_v3", "alexnet",
    "squeezenet1_1", "mnasnet0_5", "swin_t", "vit_b_16", "maxvit_t",
)  # fmt: skip
TIMM = (
    "convnextv2_atto", "eca_nfnet_l0", "resnetv2_50x1_bit", "resnest14d", "deit_tiny_patch16_224",
    "vit_tiny_patch16_224",
    "mixer_s16_224", "coatnet_0_rw_224", "levit_128s", "efficientformer_l1", "res2net50_26w_4s", "skresnet18",
    "ghostnet_100", "hrnet_w18_small", "dla34", "cspresnet50", "repvgg_a0", "mobilevit_xxs", "poolformer_s12",
    "edgenext_xx_small", "pvt_v2_b0", "gmlp_s16_224",
)  # fmt: skip
SMP = ("Unet", "UnetPlusPlus", "FPN", "Linknet", "PSPNet", "DeepLabV3Plus")
WHOLE = (  # those of fixed input size, and those that divide it many times
    "vit_b_16", "swin_t", "maxvit_t", "deit_tiny_patch16_224", "vit_tiny_patch16_224", "mixer_s16_224",
    "coatnet_0_rw_224", "levit_128s", "efficientformer_l1", "gmlp_s16_224",
)  # fmt: skip
SIZES = {"inception_v3": 299, "mobilevit_xxs": 128, **dict.fromkeys(WHOLE, 224)}
RUNS = 3
SECONDS = 60  # of CPU time, for one network and one of the two tools
FILE = Path(__file__).parent / "results" / "networks.jsonl"


def made(name: str) -> nn.Module:
    """Return a network with random weights."""
    if name in TORCHVISION:
        heads = {"aux_logits": True, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
        return getattr(torchvision.models, name)(weights=None, num_classes=10, **heads)
    if name in TIMM:
        return timm.create_model(name, pretrained=False, num_classes=10)
    return getattr(smp, name)("efficientnet-b0", encoder_weights=None, classes=4)


def ours(net: nn.Module, example: Any, callback: ChannelPruning) -> tuple[int, float]:
    """Prune by ChannelPruning: groups, share of MACs."""
    profile = measure.measure(net, example)
    choices = callback.choices(net, profile, example)
    callback.with_plan(Plan({choice.layer: {choice.knob: 0.5} for choice in choices})).apply(net, example)
    return len(choices), measure.measure(net, example).macs / profile.macs


def modes(net: nn.Module, example: Any) -> str:
    """Run a network in evaluation and in training; both in words."""
    runs = []
    for mode, word in ((evaluation, "eval"), (training, "train")):
        with torch.no_grad():
            mode(net, example)
        runs.append(word)
    return "+".join(runs)


def theirs(net: nn.Module, example: Any) -> float:
    """Prune by Torch-Pruning's MagnitudePruner, all but the last layer that runs: the share of MACs."""
    profile = measure.measure(net, example)
    last = [net.get_submodule(layer.name) for layer in profile.weighted if layer.positions][-1:]
    pruner = torch_pruning.pruner.MagnitudePruner(
        net.eval(), example, torch_pruning.importance.MagnitudeImportance(), pruning_ratio=0.5, ignored_layers=last
    )
    pruner.step()
    return measure.measure(net, example).macs / profile.macs


def measured(name: str, tool: str) -> dict[str, Any]:
    """Return what one tool makes of one network; CPU time is limited, and counted without imports."""
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    torch.manual_seed(0)
    size = SIZES.get(name, 96)
    net, example = made(name).eval(), torch.randn(2, 3, size, size)
    gc.collect()
    gc.freeze()  # one collection of all that was imported would fall on one of the two sides
    began = process_time()
    if tool == "theirs":
        return {"macs": theirs(net, example), "seconds": process_time() - began}
    callback = ChannelPruning()
    groups, share = ours(net, example, callback)
    seconds = process_time() - began
    whole = len(callback.kept_whole(made(name), example))  # which it knows by now
    return {"groups": groups, "whole": whole, "macs": share, "runs": modes(net, example), "seconds": seconds}


def in_process(name: str, tool: str) -> dict[str, Any]:
    """Return the result of :func:`measured` in a process of its own, which has imported all when it starts."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, name, tool))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
    stopped = process.exitcode in (-signal.SIGKILL, -signal.SIGXCPU)
    return {"error": f"no answer in {SECONDS} s" if stopped else f"status {process.exitcode}"}


def _send(sender: Any, name: str, tool: str) -> None:
    try:
        sender.send(measured(name, tool))
    except Exception as error:  # whatever a network or a tool raises
        sender.send({"error": f"{type(error).__name__}: {error}".splitlines()[0][:80]})


def compared(name: str) -> dict[str, dict[str, Any]]:
    """Return what both tools make of a network; where both succeed, with the seconds of three runs in turn."""
    both: dict[str, dict[str, Any]] = {}
    for _ in range(RUNS):
        for side, tool in (("ours", "ours"), ("torch_pruning", "theirs")):
            found = in_process(name, tool)
            found["seconds"] = [*both.get(side, {}).get("seconds", []), found.get("seconds")]
            both[side] = found
        if any("error" in found for found in both.values()):
            break
    return both


def commit() -> str:
    """Return the commit of the code that is measured."""
    command = ["git", "-C", str(FILE.parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def results() -> dict[str, dict[str, Any]]:
    """Return network -> what was measured, as the file has it."""
    lines = FILE.read_text().splitlines() if FILE.exists() else []
    return {entry["network"]: entry for entry in map(json.loads, lines)}


def row(entry: dict[str, Any]) -> str:
    """Return the line of one network."""
    own, other = entry["ours"], entry["torch_pruning"]
    cells = (
        f"{'':14s}{own['error'][:42]:42s}"
        if "error" in own
        else f"{own['groups']:6d} {own['whole']:6d} {own['macs']:8.3f} {median(own['seconds']):8.2f}  {own['runs']:22s}"
    )
    beside = other["error"][:40] if "error" in other else f"{other['macs']:6.3f} {median(other['seconds']):8.2f}"
    if "error" not in own and "error" not in other:
        ratios = [mine / theirs for mine, theirs in zip(own["seconds"], other["seconds"], strict=True)]
        beside += f"   x {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return f"{entry['network']:24s}{cells}  {beside:40s}  {entry['commit']}"


def main() -> None:
    """Measure what has no result yet, then print the table."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    wanted = () if sys.argv[1:] == ["--table"] else sys.argv[1:] or (*TORCHVISION, *TIMM, *SMP)
    for name in wanted:
        if name not in results():
            entry = {"network": name, **compared(name), "commit": commit()}
            with FILE.open("a") as file:
                file.write(json.dumps(entry) + "\n")
    head = f"{'':24s}{'groups':>6s} {'whole':>6s} {'MACs':>8s} {'CPU s':>8s}  {'runs':22s}"
    print(f"{head}  {'Torch-Pruning: MACs, CPU s, ratio':40s}  commit")
    for entry in results().values():
        print(row(entry))


if __name__ == "__main__":
    main()
