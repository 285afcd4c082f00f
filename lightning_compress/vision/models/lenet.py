"""LeNet-5 as the compression papers know it: two convolutions of 5x5 with pooling, 500 hidden units, no batch norm.

Source: the example network of Caffe, which Han et al. (arXiv 1506.02626, table 1) and paper 5 compress: 430,500 weights
and 580 biases on 28x28 images of one channel.
"""

from __future__ import annotations

from torch import Tensor, nn
from typing_extensions import override


class LeNet5(nn.Module):
    """``(batch, in_channels, image_size, image_size) -> (batch, num_classes)``; at least 16 pixels."""

    def __init__(self, num_classes: int = 10, in_channels: int = 1, image_size: int = 28) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2)
        )
        side = ((image_size - 4) // 2 - 4) // 2
        self.classifier = nn.Sequential(nn.Linear(50 * side**2, 500), nn.ReLU(), nn.Linear(500, num_classes))

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))
