"""ResNets for small images: depth 6n + 2, three stages of n basic blocks at widths w, 2w, 4w.

Source: He et al. 2016 (arXiv 1512.03385, section 4.2). Shortcuts that change shape are 1x1 convolutions (the paper's
option B) rather than padding with zero channels (option A), because zero padding ties channel numbers to positions and
so cannot be pruned.
"""

from __future__ import annotations

from torch import Tensor, nn
from typing_extensions import override


class BasicBlock(nn.Module):
    """conv-bn-relu-conv-bn plus shortcut, then relu."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    @override
    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNetCIFAR(nn.Module):
    """``(batch, in_channels, height, width) -> (batch, num_classes)``.

    Args:
        blocks: n, basic blocks in each of the three stages; the depth is 6n + 2.
        width: channels of the first stage.
    """

    def __init__(self, blocks: int, num_classes: int = 10, in_channels: int = 3, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        widths = (width, 2 * width, 4 * width)
        stages, before = [], width
        for i, after in enumerate(widths):
            strides = [1 if i == 0 else 2] + [1] * (blocks - 1)
            stages.append(
                nn.Sequential(*(BasicBlock(before if j == 0 else after, after, s) for j, s in enumerate(strides)))
            )
            before = after
        self.layer1, self.layer2, self.layer3 = stages
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(before, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @override
    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.pool(x).flatten(1))


def resnet8(num_classes: int = 10, in_channels: int = 3, width: int = 16) -> ResNetCIFAR:
    """Return ResNet-8: one block per stage."""
    return ResNetCIFAR(1, num_classes, in_channels, width)


def resnet20(num_classes: int = 10, in_channels: int = 3, width: int = 16) -> ResNetCIFAR:
    """Return ResNet-20: three blocks per stage; 272,474 parameters for ten classes."""
    return ResNetCIFAR(3, num_classes, in_channels, width)


def resnet56(num_classes: int = 10, in_channels: int = 3, width: int = 16) -> ResNetCIFAR:
    """Return ResNet-56: nine blocks per stage."""
    return ResNetCIFAR(9, num_classes, in_channels, width)
