"""Refuse weights of a compressed network in a plain LightningModule: one sentence in place of torch's list of sizes.

Neither a Trainer without our callbacks nor ``load_from_checkpoint`` of a class without the mixin calls anything of ours
before torch compares the shapes. So the class itself looks first: importing this module gives ``LightningModule`` a
``load_state_dict`` that does what torch's does, but for the weights of a compressed network. In a program that uses
neither a callback of this package nor its mixin, torch's error begins with the same notice, and its list follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning import LightningModule

from lightning_compress.core.errors import CompressError
from lightning_compress.surgery.structure import ACCEPTS, NOTICE, accept_notice, network, structure_of


def _load_state_dict(
    self: LightningModule, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
) -> Any:
    """Load weights as torch does.

    Raises:
        CompressError: they are of a compressed network, and that of the module is dense.
    """
    if NOTICE in state_dict and ACCEPTS not in self.__dict__:
        if structure_of(network(self)) is None:
            raise CompressError(f"{type(self).__name__}: {NOTICE.strip('[]').removeprefix('lightning_compress: ')}")
        accept_notice(self)
    return super(LightningModule, self).load_state_dict(state_dict, strict, assign)


LightningModule.load_state_dict = _load_state_dict  # type: ignore[assignment,method-assign]
