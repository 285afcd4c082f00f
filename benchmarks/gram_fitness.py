"""Output error of a mask by its Gram matrix beside a forward pass of the layer: ``python benchmarks/gram_fitness.py``.

One 3x3 convolution, 64 to 64 channels, 64 inputs of 8x8, all positions: masks of half of the channels, 1,000 at a time.
"""

from __future__ import annotations

import torch
from timing import medians
from torch import nn

from lightning_compress.pruning.input_moments import KEY, gather_moments, removal_error
from lightning_compress.surgery.calibration import calibration_of

MASKS = 1000


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    layer, x = nn.Conv2d(64, 64, 3, padding=1, bias=False), torch.randn(64, 64, 8, 8).relu()
    net = nn.Sequential(layer)
    gather_moments(net, [x], positions=64)
    gram = calibration_of(net, KEY)["0"].channel_gram(layer.weight)
    dropped = torch.stack([torch.randperm(64) < 32 for _ in range(MASKS)]).double()
    with torch.no_grad():
        full = layer(x)

        def build() -> None:
            gather_moments(net, [x], positions=64)
            calibration_of(net, KEY)["0"].channel_gram(layer.weight)

        def direct(mask: torch.Tensor) -> torch.Tensor:
            return (layer(x * (1 - mask.float())[:, None, None]) - full).double().square().sum()

        jobs = {"G": build, "forward": lambda: direct(dropped[0]), "Gram": lambda: removal_error(gram, dropped)}
        found = medians(jobs, rounds=7)
        expected = torch.stack([direct(mask) for mask in dropped[:20]])
    error = float(((removal_error(gram, dropped[:20]) - expected).abs() / expected).max())
    print(f"gather and build G   {1e3 * found['G']:10.3f} ms, once")
    print(f"forward pass         {1e3 * found['forward']:10.3f} ms a mask")
    print(f"Gram                 {1e3 * found['Gram'] / MASKS:10.5f} ms a mask")
    print(f"ratio                {found['forward'] / (found['Gram'] / MASKS):10.0f}")
    print(f"largest relative difference of the errors, 20 masks: {error:.1e}")


if __name__ == "__main__":
    main()
