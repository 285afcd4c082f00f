"""Base class of learned noise: a penalty that asks for more noise, and a switch that ends it."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_compress.core.errors import CompressError
from lightning_compress.surgery._torch import is_backward
from lightning_compress.surgery.transforms import Transform

SPEED = 20.0


class Noise(Transform):
    """Learned noise.

    Attributes:
        speed: raw noise parameters are stored divided by this, so that one step of SGD or Adam moves them further than
            a weight: they must travel several units of logarithm while weights move by hundredths.
        ended: when true there is no noise any more, and what was found is permanent. A buffer, so checkpoints know it.
        draws: how often noise was drawn; with ``salt`` it seeds the next draw, so that a resumed training draws what an
            uninterrupted one would, whatever else takes random numbers.
        ahead: draws since the last backward pass that ran the layer again.
    """

    speed: ClassVar[float] = SPEED

    ended: Tensor
    draws: Tensor
    ahead: Tensor

    def __init__(self, salt: int) -> None:
        Transform.__init__(self)  # not super: a noise that is a mask too has another next in line
        self.salt = salt
        self.register_buffer("ended", torch.tensor(False))
        self.register_buffer("draws", torch.tensor(0))
        # Tensors, not numbers: a compiled step would compile again for each.
        self.register_buffer("ahead", torch.tensor(0), persistent=False)

    @override
    def config(self) -> dict[str, Any]:
        return {"salt": self.salt}

    def generator(self, device: torch.device) -> torch.Generator:
        """Return a generator for one draw; in a backward pass (activation checkpointing) the last one again.

        Raises:
            CompressError: it is not known which: the layer ran several times before that backward pass.
        """
        if not is_backward():
            self.draws += 1
            self.ahead += 1
        elif self.ahead > 1:
            raise CompressError(
                f"{type(self).__name__}: a layer that runs several times in a step, under activation checkpointing, "
                f"would get other noise in the backward pass; leave checkpointing off for it, or the layer out of the "
                f"plan"
            )
        else:
            self.ahead.zero_()
        return torch.Generator(device).manual_seed((self.salt << 31) + int(self.draws))

    def kl(self, weight: Tensor) -> Tensor:
        """Return divergence of the noise from its prior in nats, a scalar that falls as the noise grows.

        Args:
            weight: the raw weight of the layer.
        """
        raise NotImplementedError

    def end(self, host: nn.Module) -> None:
        """Stop the noise for good, leaving the network that its mean stands for.

        Args:
            host: the module that the noise is attached to.
        """
        self.ended.fill_(True)
