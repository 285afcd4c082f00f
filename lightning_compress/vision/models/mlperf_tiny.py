"""The image classification network of MLPerf Tiny: a ResNet-8 for 32 x 32 images.

Source: Banbury et al. 2021, MLPerf Tiny Benchmark (arXiv 2106.07597, section 3.2), and the reference network of its
repository (mlcommons/tiny), whose padding and biases are those of Keras. It takes raw pixels, 0 to 255.
"""

from __future__ import annotations

from torch import Tensor, nn
from typing_extensions import override

EPSILON = 1e-3  # of batch norms, Keras's default


class Block(nn.Module):
    """conv-bn-relu-conv-bn plus shortcut, then relu; the shortcut has no batch norm."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.pad = nn.ZeroPad2d((0, 1, 0, 1)) if stride == 2 else nn.Identity()  # Keras's "same" on even sizes
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=0 if stride == 2 else 1)
        self.bn1 = nn.BatchNorm2d(out_channels, EPSILON)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(out_channels, EPSILON)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride) if stride == 2 else nn.Identity()
        self.relu = nn.ReLU()

    @override
    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(self.pad(x))))
        return self.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class TinyResNet8(nn.Module):
    """``(batch, in_channels, height, width) -> (batch, num_classes)``, 78,666 parameters for ten classes."""

    def __init__(self, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(16, EPSILON)
        self.relu = nn.ReLU()
        self.layer1, self.layer2, self.layer3 = Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, num_classes)

    @override
    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.pool(x).flatten(1))


def tiny_resnet8(num_classes: int = 10, in_channels: int = 3) -> TinyResNet8:
    """Return the network, freshly initialized."""
    net = TinyResNet8(num_classes, in_channels)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net
