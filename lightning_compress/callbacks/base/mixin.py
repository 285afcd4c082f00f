"""``CompressibleMixin``: for those who write their LightningModule with compression in mind.

It does two things that callbacks alone cannot: ``MyModule.load_from_checkpoint(file)`` rebuilds the compressed
structure (Lightning calls no callback there), and loss terms of callbacks are added where the module says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_compress.callbacks.base import refused_weights  # noqa: F401  which gives LightningModule its refusal
from lightning_compress.core.errors import CompressError
from lightning_compress.surgery.structure import accept_notice, load_structure, network, save_structure

TERMS = "_loss_terms"

# For type checkers the mixin is a LightningModule, whose hooks it extends; at run time it must stay a plain class.
if TYPE_CHECKING:
    from lightning import LightningModule as Base
else:
    Base = object


class CompressibleMixin(Base):
    """Put it before LightningModule: ``class MyModule(CompressibleMixin, LightningModule)``.

    A training step then sums the terms itself::

        loss = F.cross_entropy(self(x), y) + self.compression_loss()
    """

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write the structure of the network into the checkpoint too."""
        super().on_save_checkpoint(checkpoint)
        save_structure(network(self), checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Give the network the structure of the checkpoint before its weights are loaded."""
        load_structure(self, checkpoint)
        super().on_load_checkpoint(checkpoint)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights as torch does, and those of a checkpoint of a compressed network where this one has its shapes.

        Raises:
            CompressError: it has not.
        """
        accept_notice(self)
        return super().load_state_dict(state_dict, strict, assign)

    def add_loss(self, name: str, value: Tensor) -> None:
        """Add the value of a loss term to this training step; callbacks call this, several times if need be."""
        self.__dict__.setdefault(TERMS, {}).setdefault(name, []).append(value)

    def compression_loss(self) -> Tensor | float:
        """Return the sum of the terms added since the last call, each the mean of its values; 0.0 if none."""
        terms = self.__dict__.pop(TERMS, {})
        return sum(torch.stack(values).mean() for values in terms.values()) if terms else 0.0

    def check_summed(self, skipped: bool) -> None:
        """Drop what this training step did not sum; a callback calls this after it.

        Args:
            skipped: whether the step may leave its terms.

        Raises:
            CompressError: it may not: ``training_step`` ignores them.
        """
        terms = self.__dict__.pop(TERMS, {})
        if terms and not skipped:
            raise CompressError(
                f"{type(self).__name__}.training_step does not sum the loss terms {sorted(terms)}: add "
                f"self.compression_loss() to the loss it returns, after the forward pass"
            )
