"""Accuracy right after quantization, without training, beside Brevitas: ``python benchmarks/real/ptq.py NET DATA``.

NET is a ``safetensors`` file with the weights of our ``resnet20``, trained on CIFAR-10 with the usual mean and standard
deviation; DATA an ``.npz`` with ``train_images``, ``test_images`` (uint8, ``n x 32 x 32 x 3``) and ``test_labels``. All
layers are quantized, one scale per output channel and one per input. Both sides calibrate on the same first 512 train
images, in order, without augmentation. Brevitas (0.13) has its default quantizers: max-abs weights per channel, inputs
by percentile, signed; the second column takes its unsigned quantizer behind each ReLU. Leave it out: ``--ours``.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import numpy as np
import torch
from lightning import LightningModule, Trainer
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.core.plan import Plan
from lightning_compress.quantization.quantizers.min_max import MinMax
from lightning_compress.vision.models.resnet_cifar import resnet20

SETTINGS = ((8, 8), (6, 6), (4, 8), (4, 4))
CALIBRATION = 512
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


class Module(LightningModule):
    """A network without training of its own."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return self.net(batch[0]).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def images(file: Path, part: str, count: int | None = None) -> Tensor:
    """Return normalized images."""
    x = torch.from_numpy(np.load(file)[f"{part}_images"][:count]).permute(0, 3, 1, 2).float().div_(255)
    return x.sub_(torch.tensor(MEAN).view(1, 3, 1, 1)).div_(torch.tensor(STD).view(1, 3, 1, 1)).contiguous()


def layers(net: nn.Module) -> list[str]:
    """Return the names of conv and linear layers."""
    return [name for name, module in net.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))]


def ours(net: nn.Module, weight_bits: int, act_bits: int, x: Tensor, **settings: object) -> nn.Module:
    """Quantize all layers of a network to the same bits as a training of zero epochs does."""
    plan = Plan({name: {"weight_bits": weight_bits, "act_bits": act_bits} for name in layers(net)})
    return quantized(net, plan, x, **settings)


def quantized(net: nn.Module, plan: Plan, x: Tensor, **settings: object) -> nn.Module:
    """Quantize a network by a plan as a training of zero epochs does."""
    module = Module(net).eval()
    trainer = Trainer(
        max_epochs=0, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu", callbacks=[QuantizationAwareTraining(plan, **settings)],
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(x, torch.zeros(len(x))), 128))
    return net


def brevitas(net: nn.Module, weight_bits: int, act_bits: int, x: Tensor, unsigned: bool) -> nn.Module:
    """Quantize a network with Brevitas' layers."""
    import brevitas.nn as qnn
    from brevitas.graph.calibrate import calibration_mode
    from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerChannelFloat, Uint8ActPerTensorFloat

    for place, name in enumerate(layers(net)):
        layer = net.get_submodule(name)
        common = {
            "bias": layer.bias is not None,
            "weight_quant": Int8WeightPerChannelFloat,
            "weight_bit_width": weight_bits,
            "input_quant": Uint8ActPerTensorFloat if unsigned and place else Int8ActPerTensorFloat,
            "input_bit_width": act_bits,
        }
        if isinstance(layer, nn.Linear):
            made = qnn.QuantLinear(layer.in_features, layer.out_features, **common)
        else:
            made = qnn.QuantConv2d(
                layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, **common
            )
        made.weight.data.copy_(layer.weight.data)
        if layer.bias is not None:
            made.bias.data.copy_(layer.bias.data)
        parent, _, key = name.rpartition(".")
        setattr(net.get_submodule(parent), key, made)
    net.eval()
    with torch.no_grad(), calibration_mode(net):
        for batch in x.split(128):
            net(batch)
    return net


@torch.no_grad()
def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the share of right answers in percent."""
    net.eval()
    right = sum(int((net(a).argmax(1) == b).sum()) for a, b in zip(x.split(250), y.split(250), strict=True))
    return 100 * right / len(y)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("net", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--ours", action="store_true", help="without Brevitas, which may not be installed")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dense = resnet20()
    dense.load_state_dict(load_file(arguments.net))
    calibration, x = images(arguments.data, "train", CALIBRATION), images(arguments.data, "test")
    y = torch.from_numpy(np.load(arguments.data)["test_labels"]).flatten().long()
    print(f"dense {accuracy(dense, x, y):.2f} % of {len(y)} test images", flush=True)
    print(f"{'':8} {'LSQ':>8} {'MinMax weights':>16} {'Brevitas':>10} {'Brevitas, unsigned':>20}")
    for weight_bits, act_bits in SETTINGS:
        nets = [
            ours(copy.deepcopy(dense), weight_bits, act_bits, calibration),
            ours(copy.deepcopy(dense), weight_bits, act_bits, calibration, weight_quantizer=MinMax),
        ]
        if not arguments.ours:
            nets += [brevitas(copy.deepcopy(dense), weight_bits, act_bits, calibration, u) for u in (False, True)]
        found = [f"{accuracy(net, x, y):.2f}" for net in nets]
        print(f"w{weight_bits}a{act_bits:<6}", "   ".join(f"{text:>12}" for text in found), flush=True)


if __name__ == "__main__":
    main()
