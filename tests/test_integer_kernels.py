"""Single kernels: the emulation equals XNNPACK and TFLite-Micro in every value, for any shape, scale and padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lightning_compress.export.integer.emulate import emulate
from lightning_compress.export.integer.fit_weights import integer_weights
from lightning_compress.export.integer.graph import (
    Add,
    AveragePool,
    Concat,
    Conv,
    Graph,
    Grid,
    HardSwish,
    Linear,
    MaxPool,
    Multiply,
    Operation,
    Requantize,
    Sigmoid,
    Tensor,
)
from lightning_compress.export.integer.kernels import SIGMOID_GRID
from lightning_compress.export.integer.rounding.double import DoubleRounding
from lightning_compress.export.integer.rounding.litert import LiteRTRounding

pytest.importorskip("ai_edge_litert", reason="the runtime is not installed")
pytest.importorskip("tflite_micro", reason="the runtime is not installed")

from lightning_compress.export.tflite.engines import LiteRT, TFLiteMicro, from_stored, to_stored
from lightning_compress.export.tflite.write import tflite_bytes

FEW = settings(max_examples=25, deadline=None, derandomize=True)
SCALES = st.floats(-3, -0.3).map(lambda e: float(np.float32(10**e)))
BATCH = 3


def grids(bits: int = 8):
    return st.builds(
        lambda scale, signed: Grid(scale, -(2 ** (bits - 1)) if signed else 0, 2 ** (bits - 1 if signed else bits) - 1),
        SCALES,
        st.booleans(),
    )


def graph_of(operations: list[Operation], tensors: list[Tensor]) -> Graph:
    return Graph(tensors[0].name, tensors[-1].name, {t.name: t for t in tensors}, operations)


def levels(tensor: Tensor, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(tensor.grid.low, tensor.grid.high + 1, (BATCH, *tensor.shape), generator=generator)


def check(graph: Graph, seed: int = 0, int4: bool = False) -> None:
    """Both engines give what the emulation of their rule gives."""
    first, last = graph.tensors[graph.input], graph.tensors[graph.output]
    x = levels(first, seed)
    content = tflite_bytes(graph, int4)
    for engine, rounding in ((LiteRT, LiteRTRounding()), (TFLiteMicro, DoubleRounding())):
        if int4 and engine is LiteRT:
            continue  # XNNPACK leaves them to kernels with a third rounding
        found = from_stored(engine(content).run(to_stored(x, first.grid)), last.grid)
        expected = emulate(graph, x, rounding)
        assert torch.equal(found, expected), (engine, int((found != expected).sum()), (found - expected).abs().max())


def weighted(draw, kind: type, shape: tuple[int, ...], unit: float, out: float, **settings_):
    """Return a conv or linear operation whose outputs spread over the grid, with a dead channel now and then."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 16)))
    weight = rng.integers(-127, 128, shape).astype(np.float64)
    reach = out * 100 / (unit * 60 * np.sqrt(np.prod(shape[1:])) * 40)
    scale = reach * np.exp(rng.normal(size=shape[0])) * rng.choice([-1, 1], shape[0])
    bias = rng.normal(size=shape[0]) * out * 30
    if draw(st.booleans()):
        weight[0], scale[0] = 0, draw(st.sampled_from([0.0, 1e-12, 1e-3]))
    core, _ = integer_weights(kind("layer", ("x",), "y", weight, scale, bias, 8, **settings_), unit)
    return core


@st.composite
def convolutions(draw):
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 3)))
    stride = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    dilation = draw(st.sampled_from([(1, 1), (2, 2), (1, 2)])) if stride == (1, 1) else (1, 1)
    padding = tuple(draw(st.integers(0, 2)) for _ in range(4))
    groups, inner = draw(st.sampled_from([(1, 1), (1, 3), (1, 5), (2, 2), (4, 1), (6, 1), (3, 2)]))
    channels = groups * draw(st.integers(1, 3))
    extent = [dilation[i] * (kernel[i] - 1) + 1 for i in range(2)]
    size = [draw(st.integers(max(extent[i] - padding[2 * i] - padding[2 * i + 1], 2), 11)) for i in range(2)]
    out = [(size[i] + padding[2 * i] + padding[2 * i + 1] - extent[i]) // stride[i] + 1 for i in range(2)]
    before, after = draw(grids()), draw(grids())
    bounds = draw(st.sampled_from([(None, None), (0.0, None), (0.0, 6.0)]))
    core = weighted(
        draw, Conv, (channels, inner, *kernel), before.scale, after.scale,
        bounds=bounds, stride=stride, padding=padding, dilation=dilation, groups=groups,
    )  # fmt: skip
    tensors = [Tensor("x", (groups * inner, *size), before), Tensor("y", (channels, *out), after)]
    return graph_of([core], tensors)


@given(convolutions(), st.integers(0, 100))
@settings(FEW, max_examples=60)
def test_convolutions(graph, seed):
    check(graph, seed)


@given(st.data(), grids(), grids(), st.integers(1, 40), st.integers(1, 12))
@FEW
def test_linear_layers(data, before, after, width, out):
    core = weighted(data.draw, Linear, (out, width), before.scale, after.scale)
    check(graph_of([core], [Tensor("x", (width,), before), Tensor("y", (out,), after)]))


@given(grids(), grids(), grids(), st.sampled_from([(None, None), (0.0, None)]))
@FEW
def test_sums(first, second, out, bounds):
    assume(all(2**-10 <= grid.scale / out.scale < 2**8 for grid in (first, second)))  # else XNNPACK leaves them
    shape = (4, 5, 3)
    pool = MaxPool("pool", ("x",), "a", (1, 1))
    rng = np.random.default_rng(0)
    conv = Conv("conv", ("x",), "b", rng.integers(-127, 128, (4, 4, 1, 1)).astype(np.int8),
                np.full(4, second.scale / first.scale / 50, np.float32), np.zeros(4, np.int32), 8)  # fmt: skip
    tensors = [
        Tensor("x", shape, first),
        Tensor("a", shape, first),
        Tensor("b", shape, second),
        Tensor("y", shape, out),
    ]
    check(graph_of([pool, conv, Add("add", ("a", "b"), "y", bounds)], tensors))


@given(grids(), grids(), grids(), st.booleans())
@FEW
def test_products(first, second, out, one_for_each_channel):
    assume(2**-16 <= first.scale * second.scale / out.scale < 2**8)  # else XNNPACK leaves them
    small = (4, 1, 1) if one_for_each_channel else (4, 5, 3)
    pool = AveragePool("pool", ("x",), "a", *[(5, 3) if one_for_each_channel else (1, 1)] * 2)
    scale = np.full(4, second.scale / first.scale / 50, np.float32)
    weight = np.full((4, 1, 1, 1), 100, np.int8)
    conv = Conv("conv", ("a",), "b", weight, scale, np.zeros(4, np.int32), 8, groups=4)
    shapes = {"x": (4, 5, 3), "a": small, "b": small, "y": (4, 5, 3)}
    tensors = [Tensor(*pair, grid) for pair, grid in zip(shapes.items(), (first, first, second, out), strict=True)]
    check(graph_of([pool, conv, Multiply("mul", ("x", "b"), "y")], tensors))


@given(grids(), grids())
@FEW
def test_changes_of_the_grid(grid, out):
    assume(2**-8 <= grid.scale / out.scale <= 2**7)  # else XNNPACK leaves them
    tensors = [Tensor("x", (1, 16, 16), grid), Tensor("y", (1, 16, 16), out)]
    check(graph_of([Requantize("requantize", ("x",), "y")], tensors))


@given(grids())
@FEW
def test_logistic_functions(grid):
    tensors = [Tensor("x", (1, 16, 16), grid), Tensor("y", (1, 16, 16), SIGMOID_GRID)]
    check(graph_of([Sigmoid("sigmoid", ("x",), "y")], tensors))


@given(grids(), grids())
@FEW
def test_hard_swish(grid, out):
    assume(grid.scale / 128 < out.scale)  # which TFLite-Micro asks for
    tensors = [Tensor("x", (1, 16, 16), grid), Tensor("y", (1, 16, 16), out)]
    check(graph_of([HardSwish("hard_swish", ("x",), "y")], tensors))


@given(grids(), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
@FEW
def test_average_pooling(grid, rows, columns, stride):
    shape = (3, 9, 8)
    out = (3, (9 - rows) // stride + 1, (8 - columns) // stride + 1)
    pool = AveragePool("pool", ("x",), "y", (rows, columns), (stride, stride))
    check(graph_of([pool], [Tensor("x", shape, grid), Tensor("y", out, grid)]))


@given(grids(), st.integers(2, 3), st.integers(1, 2), st.integers(0, 1), st.integers(5, 8))
@FEW
def test_max_pooling(grid, kernel, stride, pad, size):
    out = (size + 2 * pad - kernel) // stride + 1
    pool = MaxPool("pool", ("x",), "y", (kernel,) * 2, (stride,) * 2, (pad,) * 4)
    check(graph_of([pool], [Tensor("x", (3, size, size), grid), Tensor("y", (3, out, out), grid)]))


@given(grids())
@FEW
def test_concatenation(grid):
    tensors = [Tensor("x", (2, 4, 4), grid), Tensor("a", (2, 4, 4), grid), Tensor("y", (4, 4, 4), grid)]
    check(graph_of([MaxPool("pool", ("x",), "a", (1, 1)), Concat("cat", ("x", "a"), "y")], tensors))


@given(st.data(), grids(4), grids(4))
@FEW
def test_activations_of_four_bits_are_clipped(data, before, after):
    core = weighted(data.draw, Conv, (4, 3, 3, 3), before.scale, after.scale, padding=(1, 1, 1, 1))
    graph = graph_of([core], [Tensor("x", (3, 6, 6), before), Tensor("y", (4, 6, 6), after)])
    check(graph)


@given(st.data(), grids(), grids(), st.sampled_from([(5, 5, 1), (1, 3, 4)]))
@FEW
def test_weights_of_four_bits_give_what_eight_give(data, before, after, shape):
    groups, out, inner = shape
    core = weighted(data.draw, Conv, (out, inner, 3, 3), before.scale, after.scale, groups=groups)
    core = type(core)(**{**core.__dict__, "weight": np.clip(core.weight, -7, 7), "bits": 4})
    shape = (groups * inner, 6, 6)
    graph = graph_of([core], [Tensor("x", shape, before), Tensor("y", (len(core.weight), 4, 4), after)])
    check(graph, int4=True)
