"""Bytes of the weights against accuracy, without training: ``python benchmarks/real/size.py run NETS DATA``.

NETS and DATA as in trained.py. Weights of convolutions and linear layers alone are compressed and counted: codes and
a step for each layer. Biases, batch norms and scales that fold into them (two numbers a channel) are the same on all
sides and not counted; by rate corrects them, the other sides do not. Sides: fp32 with zstd -19, int8 (largest weight
of a channel) with gzip -9, NNCodec 2.1.3 with dependent quantization by its step ``qp``, ours with LSQ's grids of one
width in fixed width and range-coded, and ours by rate (``quantize_by_rate``) by its price, from the inputs of 768 train
images without labels. Nothing is drawn at random but places in those images, by a fixed seed. Rows are appended to
``FOLDER/size.jsonl``; those that are there are not run again.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import numpy as np
import rows
import torch
from torch import nn
from trained import NETWORKS, PROJECTED, accuracy, images, load

import lightning_compress as lc
from lightning_compress.core.packed_size import code_bytes
from lightning_compress.export.rate_distortion import quantize_by_rate
from lightning_compress.quantization.coders.range_coded import RangeCoded
from lightning_compress.quantization.quantizers.weight_format import weight_format
from lightning_compress.surgery import measure, transforms
from lightning_compress.surgery.structure import structure_of

EXAMPLE = torch.zeros(2, 3, 32, 32)
CALIBRATION = 768  # train images
STEP = 4  # bytes of a layer's step
STUBS = ("cv2", "flwr", "wandb", "timm", "tensorflow", "torchvision.models", "ptflops", "hydra", "omegaconf")
SETTINGS = {
    "fp32 + zstd -19": (0,),
    "int8 + gzip -9": (8,),
    "NNCodec": (-28, -24, -20),
    "ours, fixed width": (3, 4, 5, 6),
    "ours, range-coded": (3, 4, 5, 6),
    "ours, by rate": (1e-7, 3e-7, 1e-6),
}


def weights(net: nn.Module) -> dict[str, nn.Module]:
    """Return the layers whose weights count."""
    return {name: m for name, m in net.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}


def zstd(net: nn.Module, setting: float, calibration: list[torch.Tensor]) -> int:
    """Leave the weights as they are."""
    plain = b"".join(m.weight.detach().numpy().tobytes() for m in weights(net).values())
    return len(subprocess.run(["zstd", "-19", "-c"], input=plain, capture_output=True, check=True).stdout)


def int8(net: nn.Module, setting: float, calibration: list[torch.Tensor]) -> int:
    """Round weights to 127 steps of the largest of their channel."""
    plain = b""
    for m in weights(net).values():
        scale = m.weight.flatten(1).abs().amax(1).clamp_min(1e-12).div(127).view(-1, *[1] * (m.weight.dim() - 1))
        codes = (m.weight / scale).round()
        plain += codes.to(torch.int8).numpy().tobytes()
        m.weight.copy_(codes * scale)
    return len(gzip.compress(plain, 9))


def nncodec(net: nn.Module, setting: float, calibration: list[torch.Tensor]) -> int:
    """Quantize and code by NNCodec."""
    for name in STUBS:  # imported by it and not needed here
        if name not in sys.modules:
            sys.modules[name] = MagicMock(spec=ModuleType(name), __path__=[])
    from nncodec import nnc

    tensors = {f"{name}.weight": m.weight.detach().numpy() for name, m in weights(net).items()}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "a.nnc")
        nnc.compress(tensors, qp=int(setting), use_dq=True, bitstream_path=str(file))
        found = nnc.decompress(str(file))
        for name, m in weights(net).items():
            m.weight.copy_(torch.from_numpy(np.array(found[f"{name}.weight"])).view_as(m.weight))
        return file.stat().st_size


def coded(net: nn.Module, fixed: bool = False) -> int:
    """Return the bytes of the codes of a quantized network, and of a step for each layer."""
    total = 0
    for layer in structure_of(net).profile.weighted:
        module = net.get_submodule(layer.name)
        form = weight_format(module)
        codes = form.codes(transforms.weight_before(module, form))[0].numpy()
        stream = RangeCoded().write(codes.ravel(), layer.weight_bits, codes.shape)
        total += STEP + (code_bytes(layer) if fixed else len(stream))
    return total


def lsq(net: nn.Module, setting: float, calibration: list[torch.Tensor]) -> int:
    """Quantize by LSQ's start, all layers in one width."""
    names = [layer.name for layer in measure.measure(net, EXAMPLE).weighted]
    lc.QuantizationAwareTraining({name: {"weight_bits": int(setting)} for name in names}).apply(net, EXAMPLE)
    return coded(net)


def fixed_width(net: nn.Module, setting: float, calibration: list[torch.Tensor]) -> int:
    """Quantize so, in fixed width."""
    lsq(net, setting, calibration)
    return coded(net, fixed=True)


def by_rate(net: nn.Module, setting: float, calibration: list[torch.Tensor]) -> int:
    """Quantize by rate."""
    quantize_by_rate(net, calibration, setting)
    return coded(net)


Side = Callable[[nn.Module, float, list[torch.Tensor]], int]
SIDES: dict[str, Side] = dict(zip(SETTINGS, (zstd, int8, nncodec, fixed_width, lsq, by_rate), strict=True))


def run(arguments: argparse.Namespace) -> None:
    """Add the rows that are missing."""
    file = arguments.folder / "size.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    train, (x, y) = images(arguments.npz, "train")[0][:CALIBRATION], images(arguments.npz, "test")
    torch.set_num_threads(1)
    for name in arguments.networks:
        trained, net = NETWORKS[name], load(name, arguments.nets)
        calibration = [trained.normalized(part) for part in train.split(128)]
        for side in arguments.sides:
            for setting in SETTINGS[side]:
                if any((r["net"], r["side"], r["setting"]) == (name, side, setting) for r in rows.rows_of(file)):
                    continue
                other = copy.deepcopy(net)
                with torch.no_grad():
                    size = SIDES[side](other, setting, calibration)
                found = {"net": name, "side": side, "setting": setting, "bytes": size}
                rows.append(file, {**found, "accuracy": accuracy(other, trained, x, y)})


def table(arguments: argparse.Namespace) -> None:
    """Print all rows, by network and bytes."""
    found = rows.rows_of(arguments.folder / "size.jsonl")
    for row in sorted(found, key=lambda r: (r["net"], r["side"], -r["bytes"])):
        print(f"{row['net']:22}{row['side']:20}{row['setting']:>8g}{row['bytes']:>12,}{row['accuracy']:>9.2f} %")


def main() -> None:
    """Run or print."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = asked.add_subparsers(required=True)
    running = rows.data_job(jobs, "run", "add the rows that are missing", run)
    running.add_argument(
        "--networks", nargs="+", default=[n for n in NETWORKS if not n.endswith(PROJECTED)], choices=list(NETWORKS)
    )
    running.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    rows.start(asked, jobs, table)


if __name__ == "__main__":
    main()
