"""Set the grids of activations on train batches, before anything is trained or measured with them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lightning import LightningModule, Trainer
from torch import nn

from lightning_compress.callbacks.base.calibration_pass import calibration_pass
from lightning_compress.quantization.quantizers.activation import ActivationQuantizer
from lightning_compress.surgery.structure import network
from lightning_compress.surgery.transforms import input_transform, output_transform, transformed


def activations_of(net: nn.Module) -> dict[str, ActivationQuantizer]:
    """Return each quantizer of activations once, by the name of the first layer that it is attached to."""
    found: dict[ActivationQuantizer, str] = {}
    for name, layer in transformed(net).items():
        for quantizer in (input_transform(layer), output_transform(layer)):
            if isinstance(quantizer, ActivationQuantizer):
                found.setdefault(quantizer, name)
    return {name: quantizer for quantizer, name in found.items()}


def set_grids(trainer: Trainer, module: LightningModule, also_run: bool = False) -> list[Any]:
    """Set the grids of activations that nothing has set.

    Args:
        trainer: whose first batches are used.
        module: with the network.
        also_run: whether the network runs on them although all grids are set.

    Returns:
        The inputs that it ran on.
    """
    quantizers = activations_of(network(module)).values()
    waiting = [quantizer for quantizer in quantizers if not quantizer.calibrated]
    for quantizer in waiting:
        quantizer.await_calls(float("inf"))
    examples = calibration_pass(trainer, module) if waiting or also_run else []
    # Where the pass said nothing, the first calls that do will; a sanity check must change no other grid.
    settle_or_wait(quantizers)
    return examples


def settle_or_wait(quantizers: Iterable[ActivationQuantizer]) -> None:
    """Keep the grids that are set, and let the others wait for calls."""
    for quantizer in quantizers:
        quantizer.settle() if quantizer.calibrated else quantizer.await_calls()
