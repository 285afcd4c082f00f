"""Prune half of all channels of third-party networks with random weights, beside Torch-Pruning's own recipe.

    python benchmarks/networks.py                      # all networks, each in a process of its own
    python benchmarks/networks.py convnext_tiny        # some

Columns: groups that can be pruned, layers kept whole, MACs left at keep 0.5 everywhere (ours, Torch-Pruning's), CPU
seconds of each, and whether the pruned network runs in evaluation and in training. Results: results/networks.txt.
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from time import process_time
from typing import Any

import torch
from torch import nn

import lightning_compress as lc
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
SIZES = {"inception_v3": 128, "vit_b_16": 224, "swin_t": 224, "maxvit_t": 224}
SECONDS = 600  # for one network


def made(name: str) -> nn.Module:
    """Return a network with random weights."""
    if name in TORCHVISION:
        import torchvision

        heads = {"aux_logits": True, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
        return getattr(torchvision.models, name)(weights=None, num_classes=10, **heads)
    if name in TIMM:
        import timm

        return timm.create_model(name, pretrained=False, num_classes=10)
    import segmentation_models_pytorch as smp

    return getattr(smp, name)("efficientnet-b0", encoder_weights=None, classes=4)


def ours(net: nn.Module, example: Any) -> tuple[int, int, float, str]:
    """Prune by ChannelPruning: groups, layers kept whole, share of MACs, modes in which the result runs."""
    profile, callback = measure.measure(net, example), lc.ChannelPruning()
    choices = callback.choices(net, profile, example)
    kept = len(callback.kept_whole(net, example))
    callback.with_plan(lc.Plan({choice.layer: {"channels": 0.5} for choice in choices})).apply(net, example)
    share = measure.measure(net, example).macs / profile.macs
    runs = []
    for mode, word in ((evaluation, "eval"), (training, "train")):
        with torch.no_grad():
            mode(net, example)
        runs.append(word)
    return len(choices), kept, share, "+".join(runs)


def theirs(net: nn.Module, example: Any) -> float:
    """Prune by Torch-Pruning's MagnitudePruner, all but the last layer: the share of MACs."""
    import torch_pruning

    before = measure.measure(net, example).macs
    last = [m for m in net.modules() if isinstance(m, nn.Linear)][-1:]
    pruner = torch_pruning.pruner.MagnitudePruner(
        net.eval(), example, torch_pruning.importance.MagnitudeImportance(), pruning_ratio=0.5, ignored_layers=last
    )
    pruner.step()
    return measure.measure(net, example).macs / before


def row(name: str) -> str:
    """Return the line of one network."""
    size = SIZES.get(name, 224 if name in TIMM else 96)
    torch.manual_seed(0)
    example, cells = torch.randn(2, 3, size, size), [f"{name:24s}"]
    began = process_time()
    try:
        groups, kept, share, runs = ours(made(name).eval(), example)
        cells.append(f"{groups:5d} {kept:5d}  {share:6.3f}  {process_time() - began:6.1f} s  {runs:10s}")
    except Exception as error:  # the row says which
        cells.append(f"{type(error).__name__}: {str(error)[:60]}")
    began = process_time()
    try:
        share = theirs(made(name).eval(), example)
        cells.append(f"{share:6.3f}  {process_time() - began:6.1f} s")
    except Exception as error:
        cells.append(f"{type(error).__name__}")
    return "  ".join(cells)


def main() -> None:
    """Print a table."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--one"]:
        print(row(sys.argv[2]), flush=True)
        return
    print(f"{'network':24s}  groups whole  MACs    CPU       runs        Torch-Pruning: MACs, CPU")
    for name in sys.argv[1:] or (*TORCHVISION, *TIMM, *SMP):
        try:
            done = subprocess.run(
                [sys.executable, __file__, "--one", name], capture_output=True, text=True, timeout=SECONDS
            )
            print(done.stdout.strip().rpartition("\n")[2] or f"{name:24s}  ended with {done.returncode}", flush=True)
        except subprocess.TimeoutExpired:
            print(f"{name:24s}  no answer in {SECONDS} s", flush=True)


if __name__ == "__main__":
    main()
