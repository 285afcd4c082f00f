"""Well-trained networks of others with their weights, and CIFAR-10 as they take it.

Weights are ``NAME.safetensors`` files of state dicts: ``bsq_resnet20`` (github.com/yanghr/BSQ, Apache-2.0, 92.55 % of
the test images), ``mlperf_tiny_resnet8`` (github.com/mlcommons/tiny, Apache-2.0, 87.19 %), ``akamaster_resnet20``
(github.com/akamaster/pytorch_resnet_cifar10, BSD, 91.73 %), ``akamaster_resnet32`` and ``akamaster_resnet56``. All were
trained on all 50,000 train images: accuracy on a split of these ranks plans and says nothing of unseen images. A name
that ends in ``_projected`` is the same network with 1x1 convolutions in place of option-A shortcuts, and the same
outputs: its coupled channels can be removed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from lightning_compress.vision.models.classifier import in_fast_layout
from lightning_compress.vision.models.mlperf_tiny import tiny_resnet8
from lightning_compress.vision.models.resnet_cifar import ResNetCIFAR, resnet20


class PaddedShortcut(nn.Module):
    """Option A: every second row and column, and channels of zeros on both sides."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels  # that come in

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.channels // 2, self.channels // 2))


def akamaster(blocks: int) -> nn.Module:
    """Return a ResNet with option-A shortcuts.

    Args:
        blocks: n, in each of the three stages; the depth is 6n + 2.
    """
    net = ResNetCIFAR(blocks)
    net.layer2[0].shortcut, net.layer3[0].shortcut = PaddedShortcut(16), PaddedShortcut(32)
    return net


def project(net: ResNetCIFAR) -> None:
    """Give the projections of shortcuts the weights that subsample and pad with channels of zeros."""
    for block in (net.layer2[0], net.layer3[0]):
        conv, norm = block.shortcut
        before = (conv.out_channels - conv.in_channels) // 2
        nn.init.zeros_(conv.weight)
        for channel in range(conv.in_channels):
            conv.weight.data[before + channel, channel] = 1.0
        nn.init.constant_(norm.weight, (1 + norm.eps) ** 0.5)


PROJECTED = "_projected"


@dataclass(frozen=True)
class Trained:
    """A network and the normalization that its inputs need: ``(x - mean) / std`` with x in 0..255."""

    make: Callable[[], nn.Module]
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def normalized(self, images: Tensor) -> Tensor:
        """Return uint8 images as the network takes them."""
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (self.mean, self.std))
        return in_fast_layout((images.float() - mean) / std)


NETWORKS = {
    "bsq_resnet20": Trained(
        resnet20,
        (0.4914 * 255, 0.4822 * 255, 0.4465 * 255),
        (0.2023 * 255, 0.1994 * 255, 0.2010 * 255),
    ),
    "mlperf_tiny_resnet8": Trained(tiny_resnet8),
    **{
        f"akamaster_resnet{6 * blocks + 2}{ending}": Trained(
            partial(make, blocks),
            (0.485 * 255, 0.456 * 255, 0.406 * 255),
            (0.229 * 255, 0.224 * 255, 0.225 * 255),
        )
        for blocks in (3, 5, 9)
        for ending, make in (("", akamaster), (PROJECTED, ResNetCIFAR))
    },
}


def load(name: str, folder: Path) -> nn.Module:
    """Return a network with its weights, in evaluation mode."""
    net, projected = NETWORKS[name].make(), name.endswith(PROJECTED)
    weights = load_file(folder / f"{name.removesuffix(PROJECTED)}.safetensors")
    net.load_state_dict({key.replace("linear.", "fc."): value for key, value in weights.items()}, strict=not projected)
    if projected:
        project(net)
    return net.eval()


def images(file: Path, part: str) -> tuple[Tensor, Tensor]:
    """Return the uint8 images (n x 3 x 32 x 32) and labels of ``train`` or ``test``, from an ``.npz``."""
    with np.load(file) as found:
        x = torch.from_numpy(found[f"{part}_images"]).permute(0, 3, 1, 2)
        return x, torch.from_numpy(found[f"{part}_labels"]).flatten().long()


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return each image flipped or not and shifted by up to four pixels, zeros coming in."""
    n = len(images)
    flips = torch.rand(n, generator=generator) < 0.5
    images = torch.where(flips.view(n, 1, 1, 1), images.flip(3), images)
    padded = F.pad(images, (4, 4, 4, 4))
    dx, dy = torch.randint(9, (2, n), generator=generator).tolist()
    return torch.stack([padded[i, :, y : y + 32, x : x + 32] for i, (x, y) in enumerate(zip(dx, dy, strict=True))])


@torch.no_grad()
def accuracy(net: nn.Module, trained: Trained, x: Tensor, y: Tensor) -> float:
    """Return the share of right answers in percent."""
    net.eval()
    batches = zip(x.split(500), y.split(500), strict=True)
    return 100 * sum(int((net(trained.normalized(a)).argmax(1) == b).sum()) for a, b in batches) / len(y)
