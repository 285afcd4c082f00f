"""Transposed convolutions in integers: single kernels of any shape, whole networks in each format, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lightning_compress as lc
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.core.costs.activation_bytes import ActivationBytes
from lightning_compress.core.costs.arena_bytes import ArenaBytes
from lightning_compress.core.costs.tflite_bytes import TFLiteBytes
from lightning_compress.core.errors import CompressError
from lightning_compress.export.integer.completion import complete
from lightning_compress.export.integer.emulate import emulate, to_levels, to_values
from lightning_compress.export.integer.fit_weights import integer_weights
from lightning_compress.export.integer.graph import ConvTranspose, Graph, Grid
from lightning_compress.export.integer.graph import Tensor as GraphTensor
from lightning_compress.export.integer.lower import lower
from lightning_compress.export.integer.rounding.double import DoubleRounding
from lightning_compress.export.integer.rounding.floating import FloatRounding
from lightning_compress.export.integer.rounding.litert import LiteRTRounding
from lightning_compress.export.onnx.qonnx_exporter import Qonnx
from lightning_compress.quantization.placements.tensors import Tensors
from lightning_compress.surgery import measure
from lightning_compress.surgery.row_layout import swapped

BOUNDS = [(None, None), (0.0, None), (0.0, 6.0)]


def images(count: int = 16) -> Tensor:
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class UNet(nn.Module):
    """A skip into a concatenation behind a transposed convolution with a norm, and a second one with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = block(3, 8), block(8, 16), block(16, 8)
        self.pool = nn.MaxPool2d(2)
        self.up = nn.Sequential(nn.ConvTranspose2d(16, 8, 3, 2, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.larger, self.head = nn.ConvTranspose2d(8, 4, 2, 2), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        x = self.c(torch.cat([a, self.up(self.b(self.pool(a)))], 1))
        return self.head(self.larger(x))


def autoencoder() -> nn.Module:
    up = nn.ConvTranspose2d(6, 8, 4, 2, 1), nn.ReLU6(), nn.ConvTranspose2d(8, 3, (3, 2), (1, 2), (1, 0))
    return nn.Sequential(block(3, 8, 2), block(8, 6), *up)


NETWORKS = {"u-net": UNet, "autoencoder": autoencoder}


def network(make) -> nn.Module:
    torch.manual_seed(0)
    net = make()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data = torch.randn_like(module.weight)
    for _ in range(3):
        net.train()(images())
    return net.eval()


def trained(make, weight_bits: int, tmp_path) -> nn.Module:
    """Return a network quantized on tensors, through a packed file."""
    net = network(make)
    layers = measure.measure(net, images(2)).quantizable
    plan = {layer.name: {"weight_bits": weight_bits, "act_bits": 8} for layer in layers}
    QuantizationAwareTraining(plan, placement=Tensors()).apply(net, images(2))
    net(images())
    lc.save(net, tmp_path / "net.safetensors", images(2))
    return lc.load(tmp_path / "net.safetensors", make())


@pytest.mark.parametrize("weight_bits", [8, 3])
@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_a_trained_network_runs_in_integers_from_end_to_end(make, weight_bits, tmp_path):
    pytest.importorskip("ai_edge_litert", reason="the runtime is not installed")
    net = trained(make, weight_bits, tmp_path)
    report = lc.export(net, tmp_path / "net.tflite", images())
    assert (report.deployed.values_off, report.deployed.float_kernels) == (0, ())
    assert report.deployed.integer_kernels == len(lower(net, images()).weighted)
    assert report.deployed.slope == pytest.approx(1, abs=0.02)
    assert any("one sample at a time" in note for note in report.notes)
    assert not any("floating point" in note or "example batch" in note for note in report.notes)
    micro = pytest.importorskip("lightning_compress.export.tflite.engines")
    pytest.importorskip("tflite_micro", reason="the runtime is not installed")
    graph = lower(net, images())
    levels = to_levels(images(), graph.grid(graph.input))
    engine, grid = micro.TFLiteMicro((tmp_path / "net.tflite").read_bytes()), graph.grid(graph.output)
    found = micro.from_stored(engine.run(micro.to_stored(levels, graph.grid(graph.input))), grid)
    assert torch.equal(found, emulate(graph, levels, DoubleRounding()))


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_onnx_runtime_runs_them_in_floating_point_between_integers_and_says_so(make, tmp_path):
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason="the runtime is not installed")
    net = trained(make, 8, tmp_path)
    report = lc.export(net, tmp_path / "net.onnx", images())
    weighted = lower(net, images()).weighted
    transposed = [operation.output for operation in weighted if isinstance(operation, ConvTranspose)]
    assert sorted(report.deployed.float_kernels) == sorted(transposed)
    assert report.deployed.integer_kernels == len(weighted) - len(transposed)
    assert any("no integer kernel for transposed convolutions" in note for note in report.notes)
    assert report.deployed.values_off < 0.005  # float32 sums on ties
    assert report.deployed.slope == pytest.approx(1, abs=0.02)


def test_qonnx_has_them_as_float_values_of_their_levels(tmp_path):
    onnx = pytest.importorskip("onnx", reason="the package is not installed")
    lc.export(complete(network(UNet), [images()]), tmp_path / "net.onnx", images(), exporter=Qonnx())
    kinds = [node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node]
    assert kinds.count("ConvTranspose") == 2


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_qonnx_files_are_compared_with_groups_too(groups, tmp_path):
    pytest.importorskip("onnx", reason="the package is not installed")
    torch.manual_seed(0)
    net = nn.Sequential(block(3, 8), nn.ConvTranspose2d(8, 16, 3, 2, 1, 1, groups)).eval()
    report = lc.export(net, tmp_path / "net.onnx", images(), exporter=Qonnx())
    assert report.parity.max_error < 1e-5


def test_a_float_network_is_written_in_floating_point(tmp_path):
    pytest.importorskip("ai_edge_litert", reason="the runtime is not installed")
    net = network(UNet)
    for ending in ("tflite", "onnx"):
        report = lc.export(net, tmp_path / f"net.{ending}", images())
        assert report.parity.max_error < 1e-4


@pytest.mark.parametrize(("make", "size"), [(UNet, 12), (autoencoder, 12), (UNet, 40)])
def test_costs_count_them_as_the_file_and_tflite_micro_do(make, size):
    pytest.importorskip("ai_edge_litert", reason="the runtime is not installed")
    pytest.importorskip("tflite_micro", reason="the runtime is not installed")
    from lightning_compress.export.tflite.arena import arena_bytes
    from lightning_compress.export.tflite.write import tflite_bytes

    net, x = make().eval(), torch.randn(4, 3, size, size)
    content, profile = tflite_bytes(lower(complete(net, [x]), x)), measure.measure(net, x)
    assert ArenaBytes()(profile) == pytest.approx(arena_bytes(content), rel=0.1)
    assert ActivationBytes(integer=True)(profile) <= arena_bytes(content)
    assert len(content) <= TFLiteBytes()(profile)
    assert {"conv", "conv_transpose"} <= {layer.kind for layer in profile.kernels}


def sizes(operation: ConvTranspose, size: tuple[int, int]) -> tuple[int, ...]:
    weight = swapped(torch.from_numpy(operation.weight.astype(np.float32)), operation.groups)
    x = torch.zeros(1, len(weight), *size)
    return tuple(
        F.conv_transpose2d(
            x, weight, None, operation.stride, operation.padding, operation.output_padding, operation.groups,
            operation.dilation,
        ).shape[1:]
    )  # fmt: skip


@st.composite
def kernels(draw, tflite: bool):
    """Draw a graph of one kernel and its input: scales of both signs, and dead channels now and then."""
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 4)))
    more = tuple(draw(st.integers(0, s - 1)) for s in stride)
    dilation = (1, 1) if tflite else draw(st.sampled_from([(1, 1), (2, 1)]))
    groups = 1 if tflite else draw(st.sampled_from([1, 2, 3]))
    padding = tuple(draw(st.integers(0, (k + m - 1) // 2)) for k, m in zip(kernel, more, strict=True))
    inner, outer = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    scales = [float(np.float32(10 ** draw(st.floats(-3, -0.3)))) for _ in range(2)]
    before, after = (Grid(s, -128, 127) if draw(st.booleans()) else Grid(s, 0, 255) for s in scales)
    bits = draw(st.sampled_from([8, 8, 4, 2]))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 16)))
    largest = 2 ** (bits - 1) - 1
    shape = (groups * outer, inner, *kernel)
    weight = rng.integers(-largest, largest + 1, shape).astype(np.float64)
    scale = after.scale / before.scale / largest / np.sqrt(inner * np.prod(kernel)) * np.exp(rng.normal(size=shape[0]))
    bias = rng.normal(size=shape[0]) * after.scale * 30
    if draw(st.booleans()):
        weight[0], scale[0] = 0, draw(st.sampled_from([0.0, 1e-12, 1e-3]))
    core, _ = integer_weights(
        ConvTranspose(
            "layer", ("x",), "y", weight, scale * rng.choice([-1, 1], shape[0]), bias, bits,
            draw(st.sampled_from(BOUNDS)), stride, padding, more, dilation, groups,
        ), before.scale,
    )  # fmt: skip
    size = draw(st.tuples(st.integers(2, 6), st.integers(2, 6)))
    tensors = [GraphTensor("x", (groups * inner, *size), before), GraphTensor("y", sizes(core, size), after)]
    levels = torch.from_numpy(rng.integers(before.low, before.high + 1, (2, *tensors[0].shape)))
    return Graph("x", "y", {t.name: t for t in tensors}, [core]), levels


@given(kernels(tflite=True), st.booleans())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_xnnpack_and_tflite_micro_give_what_their_emulation_gives(drawn, int4):
    pytest.importorskip("ai_edge_litert", reason="the runtime is not installed")
    pytest.importorskip("tflite_micro", reason="the runtime is not installed")
    from lightning_compress.export.tflite.engines import LiteRT, TFLiteMicro, from_stored, to_stored
    from lightning_compress.export.tflite.write import tflite_bytes

    graph, levels = drawn
    content = tflite_bytes(graph, int4)
    for make, rounding in ((LiteRT, LiteRTRounding()), (TFLiteMicro, DoubleRounding())):
        engine = make(content)
        found = from_stored(engine.run(to_stored(levels, graph.grid("x"))), graph.grid("y"))
        assert torch.equal(found, emulate(graph, levels, rounding)), make
        assert make is TFLiteMicro or engine.parts() == (1, [])


@given(kernels(tflite=False))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_onnx_runtime_gives_what_the_emulation_gives_but_for_ties(drawn):
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason="the runtime is not installed")
    from lightning_compress.export.onnx.session import Session
    from lightning_compress.export.onnx.write import onnx_bytes

    graph, levels = drawn
    found = Session(onnx_bytes(graph)).run(to_values(levels, graph.grid("x")))
    steps = (found / graph.grid("y").scale).round().long() - emulate(graph, levels, FloatRounding())
    assert steps.abs().max() <= 1
    assert (steps != 0).float().mean() < 0.02


REFUSED = {
    "groups": (nn.ConvTranspose2d(4, 4, 2, 2, groups=2), "2 groups"),
    "dilation": (nn.ConvTranspose2d(4, 4, 2, dilation=2), "dilation"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_tflite_refuses_in_a_sentence_what_it_cannot_express(case, tmp_path):
    pytest.importorskip("ai_edge_litert", reason="the runtime is not installed")
    layer, words = REFUSED[case]
    net = nn.Sequential(nn.Conv2d(3, 4, 1), layer)
    with pytest.raises(CompressError, match=words) as error:
        lc.export(net, tmp_path / "net.tflite", images(), calibration=[images()])
    assert "'1'" in str(error.value)
    assert not list(tmp_path.iterdir())
    report = lc.export(net, tmp_path / "net.onnx", images(), calibration=[images()])
    assert report.deployed.slope == pytest.approx(1, abs=0.02)


def test_other_dimensions_have_no_kernel(tmp_path):
    net = nn.Sequential(nn.ConvTranspose1d(3, 4, 2, 2), nn.ReLU())
    with pytest.raises(CompressError, match="conv_transpose1d"):
        lc.export(net, tmp_path / "net.tflite", torch.randn(4, 3, 8))
