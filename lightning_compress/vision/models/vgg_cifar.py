"""VGG with batch norm for 32x32 images: the convolutions of VGG-16 or -19, then one linear layer.

Source: Simonyan and Zisserman 2015 (arXiv 1409.1556), in the CIFAR form of Network Slimming (arXiv 1708.06519, section
4.1). VGG-19 has 20.04 M parameters for ten classes: the "VGGNet" of paper 1.
"""

from __future__ import annotations

from torch import Tensor, nn
from typing_extensions import override

STAGES = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)


class VGGCIFAR(nn.Module):
    """``(batch, in_channels, 32, 32) -> (batch, num_classes)``; ``depth`` is 16 or 19."""

    def __init__(self, depth: int, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = in_channels
        for stage, (count, width) in enumerate(zip(STAGES[depth], WIDTHS, strict=True)):
            for _ in range(count):
                layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                before = width
            if stage < len(WIDTHS) - 1:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(before, num_classes)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.features(x)).flatten(1))


def vgg16_bn(num_classes: int = 10, in_channels: int = 3) -> VGGCIFAR:
    """Return VGG-16: 13 convolutions and one linear layer."""
    return VGGCIFAR(16, num_classes, in_channels)


def vgg19_bn(num_classes: int = 10, in_channels: int = 3) -> VGGCIFAR:
    """Return VGG-19: 16 convolutions and one linear layer."""
    return VGGCIFAR(19, num_classes, in_channels)
