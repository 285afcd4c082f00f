"""The graph that a network is deployed as: in integers where it can be, else in floating point."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from lightning_compress.export.finished import finished
from lightning_compress.export.integer.completion import BITS, complete
from lightning_compress.export.integer.graph import Graph
from lightning_compress.export.integer.lower import lower
from lightning_compress.export.integer.marked import NoIntegerFormError, UnquantizedError
from lightning_compress.quantization.quantizers.activation import ActivationQuantizer
from lightning_compress.surgery import transforms
from lightning_compress.surgery.copies import clone
from lightning_compress.surgery.mask import Mask
from lightning_compress.surgery.structure import network

IN_FLOAT = "in floating point, for "
WITHOUT_GRAPH = "by torch's own export, for "


@dataclass(frozen=True)
class Deployable:
    """A graph, and the torch network that computes the same up to rounding.

    Attributes:
        graph: None where the network has an operation that is none of the graph's.
        reference: the network, with the quantizers that the graph has.
        notes: sentences for the user.
    """

    graph: Graph | None
    reference: nn.Module
    notes: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """Why there is no graph, or none in integers: the last note."""
        return self.notes[-1].removeprefix(IN_FLOAT).removeprefix(WITHOUT_GRAPH)


def deployable(
    module: nn.Module, example: Any, calibration: Iterable[Any] | None = None, weight_bits: int = BITS
) -> Deployable:
    """Return what to write of a network.

    Args:
        module: a LightningModule or a network; it is not changed.
        example: one input batch; grids that are missing beside trained ones are set from it.
        calibration: batches that set all missing grids, also those of a network in floating point.
        weight_bits: of weights without a quantizer, where calibration is given.

    Raises:
        NoIntegerFormError: calibration was given, and an operation has no integer kernel.
        CompressError: the network cannot be exported by torch.
    """
    if calibration is not None:
        reference = complete(module, calibration, weight_bits=weight_bits)
        graph = lower(reference, example)
        return Deployable(graph, reference, tuple(graph.notes))
    weights, activations = _quantized(network(module))
    if not weights:
        return _in_float(module, example, ())
    if not activations:
        return _in_float(module, example, ("in floating point, for activations are not quantized",))
    try:
        try:
            graph = lower(module, example)
            return Deployable(graph, finished(module), tuple(graph.notes))
        except UnquantizedError:
            reference = complete(module, [example])
            graph = lower(reference, example)
            note = (
                "the network was not trained with the placement Tensors; grids that were missing are those of the "
                "example batch"
            )
            return Deployable(graph, reference, (note, *graph.notes))
    except NoIntegerFormError as error:
        return _in_float(module, example, (IN_FLOAT + str(error).removeprefix("export: "),))


def _quantized(net: nn.Module) -> tuple[bool, bool]:
    """Return whether any weight, and whether any activation, has a quantizer."""
    layers = transforms.transformed(net).values()
    chains = [chain for layer in layers for chain in transforms.weight_chains(layer).values()]
    weights = any(not isinstance(t, Mask) for chain in chains for t in chain)
    places = (t for layer in layers for t in (transforms.input_transform(layer), transforms.output_transform(layer)))
    return weights, any(isinstance(t, ActivationQuantizer) for t in places)


def _in_float(module: nn.Module, example: Any, notes: tuple[str, ...]) -> Deployable:
    reference = transforms.bake(clone(network(module)).cpu().eval())
    try:
        return Deployable(lower(reference, example, integer=False), reference, notes)
    except NoIntegerFormError as error:
        reason = str(error).removeprefix("export: ")
        told = any(reason in note for note in notes)
        return Deployable(None, reference, notes if told else (*notes, WITHOUT_GRAPH + reason))
