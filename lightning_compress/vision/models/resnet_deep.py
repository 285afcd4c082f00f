"""torchvision's ResNets with a stem for small images: a 3x3 convolution without stride, and no pooling behind it.

The "ResNet-18, -34 and -50 on CIFAR-10" of papers 4 and 5, four stages of widths 64 to 512 (bottlenecks: 256 to 2048);
resnet_cifar.py has the thin ones of three stages.
"""

from __future__ import annotations

import torchvision
from torch import nn
from torchvision.models import ResNet


def _with_small_stem(net: ResNet, in_channels: int) -> ResNet:
    net.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    net.maxpool = nn.Identity()
    return net


def resnet18(num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """Return ResNet-18: eight basic blocks; 11.2 M parameters for ten classes."""
    return _with_small_stem(torchvision.models.resnet18(num_classes=num_classes), in_channels)


def resnet34(num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """Return ResNet-34: 16 basic blocks; 21.3 M parameters for ten classes."""
    return _with_small_stem(torchvision.models.resnet34(num_classes=num_classes), in_channels)


def resnet50(num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """Return ResNet-50: 16 bottlenecks; 23.5 M parameters for ten classes."""
    return _with_small_stem(torchvision.models.resnet50(num_classes=num_classes), in_channels)
