"""``CompressibleMixin``: for those who write their LightningModule with compression in mind.

It does two things that callbacks alone cannot: ``MyModule.load_from_checkpoint(file)`` rebuilds the compressed
structure (Lightning calls no callback there), and loss terms of callbacks are added where the module says so.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_compress.errors import CompressError
from lightning_compress.record import load_structure, network, save_structure


class CompressibleMixin:
    """Put it before LightningModule: ``class MyModule(CompressibleMixin, LightningModule)``.

    A training step then sums the terms itself::

        loss = F.cross_entropy(self(x), y) + self.compression_loss()
    """

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        save_structure(network(self), checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        load_structure(self, checkpoint)
        super().on_load_checkpoint(checkpoint)

    def add_loss(self, name: str, value: Tensor) -> None:
        """Hand in the value of a loss term for this training step; a callback calls this.

        Raises:
            CompressError: the term of the step before was never summed: ``training_step`` ignores it.
        """
        terms = self.__dict__.setdefault("_loss_terms", {})
        if name in terms:
            raise CompressError(
                f"{type(self).__name__}.training_step does not sum the loss term {name!r}: add self.compression_loss() "
                f"to the loss it returns, after the forward pass"
            )
        terms[name] = value

    def compression_loss(self) -> Tensor | float:
        """The sum of the terms handed in since the last call, 0.0 when there are none."""
        terms = self.__dict__.pop("_loss_terms", {})
        return sum(terms.values()) if terms else 0.0
