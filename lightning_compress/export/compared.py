"""Compare the outputs of a runtime with those of the network that was exported."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_compress.core.errors import CompressError, first_line
from lightning_compress.export.deployable import Deployable
from lightning_compress.export.exporter import Parity
from lightning_compress.export.finished import finished
from lightning_compress.export.integer.emulate import emulate, to_values
from lightning_compress.export.integer.graph import Graph
from lightning_compress.export.integer.marked import NoIntegerFormError
from lightning_compress.export.integer.rounding.rounding import Rounding
from lightning_compress.surgery.inputs import small
from lightning_compress.surgery.measure import evaluating, forward

SAMPLES = 256
INSTRUCTIONS = {"avx512_vnni": "AVX-512 VNNI", "avx_vnni": "AVX VNNI", "avx512f": "AVX-512", "avx2": "AVX2"}
TOKENS = (torch.int32, torch.int64)
# Largest norm of the error, relative to that of the outputs. Sums in another order change 1e-5 at most, and a GELU that
# a runtime approximates 1e-3. Kernels in integers round on their own in each layer: up to 0.03 at 8 bits in a ResNet.
FLOAT_ERROR, INTEGER_ERROR, STEPS = 1e-2, 0.5, 4
FEWEST_LEVELS = 127  # on fewer, one rounding changes outputs as much as a fault: 0.46 with 2 bits in a ResNet-8
DRAWS = 4  # times the difference of two calls, where a network draws random numbers


def first_samples(example: Any) -> Tensor:
    """Return at most 256 samples of an example, on the CPU: token ids as they are, all else in fp32.

    Raises:
        CompressError: it is no tensor, holds no sample, or holds values that are not finite.
    """
    if not isinstance(example, Tensor):
        raise CompressError(
            f"export: example_input must be one tensor with the batch first, got {type(example).__name__}; networks "
            f"with several inputs are not supported by this format"
        )
    if not example.dim() or not len(example):
        raise CompressError(f"export: example_input of shape {tuple(example.shape)} holds no sample; pass some inputs")
    found = small(example, SAMPLES).detach().cpu()
    if found.dtype in TOKENS:
        return found
    if not bool(found.isfinite().all()):
        raise CompressError("export: example_input holds values that are not finite; pass inputs as they are in use")
    return found.float()


def outputs_of(net: nn.Module, x: Tensor) -> Tensor:
    """Return the outputs of a network in eval mode.

    Raises:
        CompressError: the network does not accept the example, or returns something else than a tensor.
    """
    try:
        with evaluating(net):
            y = forward(net, x)
    except Exception as error:  # whatever the network's own forward raises
        raise CompressError(
            f"export: {type(net).__name__} does not accept an example of shape {tuple(x.shape)}: {first_line(error)}"
        ) from error
    if not isinstance(y, Tensor):
        raise CompressError(f"export: {type(net).__name__} returns a {type(y).__name__}; one tensor is supported")
    return y.float()


def expected_of(module: nn.Module, x: Tensor) -> Tensor:
    """Return the outputs of a network that is about to be exported; a copy is run, for a batch may set missing grids.

    Raises:
        CompressError: the network does not accept the example; naming the shape.
    """
    return outputs_of(finished(module), x)


def checked_outputs(found: Deployable, x: Tensor, expected: Tensor, run: Callable[[], Tensor], path: Path) -> Tensor:
    """Return the outputs of a file, which are those of the network up to what kernels may differ.

    Of a file in integers with a tensor of fewer than 7 bits only the shape of the outputs is checked.

    Args:
        found: what was written.
        x: the inputs.
        expected: outputs of the network that was given, before missing grids were set and those of others left out.
        run: returns the outputs of the file for these inputs, as float values.
        path: of the file, for the message.

    Raises:
        CompressError: they differ.
    """
    outputs, graph = run(), found.graph
    if outputs.shape != expected.shape:
        raise CompressError(f"export: the file gives {tuple(outputs.shape)} and the network {tuple(expected.shape)}")
    share, least = FLOAT_ERROR, 0.0
    if graph is not None and graph.integer:
        grids = [graph.grid(name) for name in graph.tensors]
        if min(grid.high - grid.low for grid in grids) < FEWEST_LEVELS:
            return outputs
        share, least = INTEGER_ERROR, STEPS * graph.grid(graph.output).scale * outputs.numel() ** 0.5
    if _error(outputs, expected) <= share * _size(expected) + least:
        return outputs
    first, again = outputs_of(found.reference, x), outputs_of(found.reference, x)
    error, size, draws = _error(outputs, first), _size(first), _error(again, first)
    if draws > share * size and torch.equal(outputs, run()):
        raise CompressError(
            f"export: the network draws random numbers in eval mode, as dropout with training=True does, and "
            f"{path.name!r} would not; nothing was written. Take them out of its forward, or deploy the packed file by "
            f"load"
        )
    if not error <= share * size + least + DRAWS * draws:
        remedy = (
            f"replace what torch's exporter or the runtime computes wrongly (no kernel of ours: {found.reason})"
            if graph is None
            else "please report this fault of the file"
        )
        raise CompressError(
            f"export: {path.name!r} would not give the outputs of the network: they differ by "
            f"{error / max(size, 1e-30):.2g} of their size, and {share} is allowed; nothing was written. Deploy the "
            f"packed file by load, or {remedy}"
        )
    return outputs


def _error(found: Tensor, expected: Tensor) -> float:
    """Return the norm of a difference, where what is expected is finite."""
    return float((found - expected)[expected.isfinite()].double().norm())


def _size(expected: Tensor) -> float:
    return float(expected[expected.isfinite()].double().norm())


def off_emulation(
    graph: Graph | None, x: Tensor, outputs: Tensor, rounding: Rounding
) -> tuple[float | None, float | None]:
    """Return the shares of values, and of samples' largest outputs, that are not those of the emulation, or None twice.

    Args:
        graph: None, one in floating point, and one with an operation that the rounding does not know are not emulated.
        x: the inputs.
        outputs: of the runtime, as float values.
        rounding: of the runtime.
    """
    if graph is None or not graph.integer:
        return None, None
    grid = graph.grid(graph.output)
    try:
        emulated = to_values(emulate(graph, x, rounding), grid)
    except NoIntegerFormError:
        return None, None
    values = ((outputs - emulated).abs() > grid.scale / 2).float().mean()
    largest = outputs.flatten(1).argmax(1) != emulated.flatten(1).argmax(1)
    return float(values), float(largest.float().mean())


def parity(expected: Tensor, found: Tensor) -> Parity:
    """Return how two outputs of shape ``(batch, ...)`` compare; the largest output is over dimension 1."""
    error = (expected - found).abs()
    flat = [y.flatten(1) for y in (expected, found)]
    agreement = (flat[0].argmax(1) == flat[1].argmax(1)).float().mean()
    return Parity(len(expected), float(agreement), float(error.mean()), float(error.max()))


def slope(expected: Tensor, found: Tensor) -> float:
    """Return the slope of the least-squares line through the origin, of found outputs on expected ones."""
    x, y = expected.double().flatten(), found.double().flatten()
    return float((x @ y) / (x @ x).clamp_min(torch.finfo(torch.float64).tiny))


def machine(info: Path = Path("/proc/cpuinfo")) -> str:
    """Return the name of the processor, with the instructions for integers that tell processors of one name apart.

    Args:
        info: as Linux writes it; elsewhere there is none.
    """
    lines = info.read_text().splitlines() if info.is_file() else []
    values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    name = values.get("model name") or platform.processor() or platform.machine()
    flags = values.get("flags", "").split()
    return next((f"{name}, {told}" for flag, told in INSTRUCTIONS.items() if flag in flags), name)
