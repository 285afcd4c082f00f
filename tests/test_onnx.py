"""Whole networks as .onnx files: kernels that ONNX Runtime chooses, parity, sizes, and networks in floating point."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_completion import Pooled
from torch import Tensor, nn

from lightning_compress.callbacks.low_rank import LowRank
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.callbacks.weight_pruning import WeightPruning
from lightning_compress.core.errors import CompressError
from lightning_compress.export.integer.completion import complete
from lightning_compress.export.integer.emulate import emulate, to_values
from lightning_compress.export.integer.graph import Add, AveragePool, Conv, Graph, Grid
from lightning_compress.export.integer.graph import Tensor as GraphTensor
from lightning_compress.export.integer.lower import lower
from lightning_compress.export.integer.rounding.floating import FloatRounding
from lightning_compress.export.onnx.exporter import Onnx
from lightning_compress.export.onnx.qonnx_exporter import Qonnx
from lightning_compress.export.onnx.session import Session
from lightning_compress.export.onnx.write import onnx_bytes
from lightning_compress.quantization.placements.layer_inputs import LayerInputs
from lightning_compress.quantization.placements.tensors import Tensors
from lightning_compress.quantization.quantizers.activation import ActivationQuantizer
from lightning_compress.quantization.quantizers.codebook import Codebook
from lightning_compress.quantization.quantizers.dorefa import DoReFa
from lightning_compress.quantization.quantizers.lsq import LSQ
from lightning_compress.surgery import measure
from lightning_compress.testing.toys import SIZE, ToyNet
from lightning_compress.vision.models.resnet_cifar import resnet8

onnx = pytest.importorskip("onnx", reason="the package is not installed")
pytest.importorskip("onnx.reference", reason="the package is not installed")
for package in ("onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason="the runtime is not installed")


def images(count: int = 32, size: int = 16) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def quantized(weight_bits: int, act_bits: int = 8, make=LSQ, mixed: dict[str, int] = {}) -> nn.Module:  # noqa: B006
    """Return a ResNet-8 with batch norms of both signs, quantized on tensors and calibrated."""
    torch.manual_seed(0)
    net = resnet8()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data = torch.randn_like(module.weight)
    for _ in range(3):
        net.train()(images())
    plan = {layer.name: {"weight_bits": mixed.get(layer.name, weight_bits), "act_bits": act_bits}
            for layer in measure.measure(net, images(2)).weighted}  # fmt: skip
    callback = QuantizationAwareTraining(plan, weight_quantizer=make, placement=Tensors())
    callback.apply(net.eval(), images(2))
    net(images())
    return net


@pytest.mark.parametrize(("weight_bits", "act_bits"), [(8, 8), (4, 8), (2, 8), (1, 8), (5, 6), (4, 4)])
def test_every_layer_and_sum_runs_in_integers_at_any_width(weight_bits, act_bits, tmp_path):
    report = Onnx().export(quantized(weight_bits, act_bits), tmp_path / "net.onnx", images())
    kernels = Session((tmp_path / "net.onnx").read_bytes()).kernels
    assert kernels["QLinearConv"] == 9
    assert kernels["QLinearAdd"] == 3
    assert kernels["Conv"] + kernels["FusedConv"] + kernels["Add"] == 0
    assert kernels["Transpose"] <= 2
    assert report.deployed.values_off == 0
    assert any("VNNI" in note for note in report.notes) == (weight_bits == 8)
    assert report.deployed.slope == pytest.approx(1, abs=0.02)
    weights = sum(layer.weights for layer in measure.measure(resnet8(), images(2)).weighted)
    assert report.bytes <= 1.1 * weights + 30_000


def test_no_value_of_two_thousand_images_differs_from_the_emulation():
    widths = {"conv1": 8, "stages.0.0.conv1": 4, "stages.1.0.conv2": 2}  # and 3 bits elsewhere
    for net in (quantized(8), quantized(4), quantized(2), quantized(3, mixed=widths)):
        x = torch.randn(2000, 3, 16, 16, generator=torch.Generator().manual_seed(3))
        graph = lower(net, x[:2])
        session = Session(onnx_bytes(graph))
        found = torch.cat([session.run(part) for part in x.split(250)])
        emulated = torch.cat([emulate(graph, part, FloatRounding()) for part in x.split(250)])
        assert torch.equal((found / graph.grid(graph.output).scale).round().long(), emulated)


def test_a_layer_that_stays_in_floating_point_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(Session, "floating", ("conv1",))
    with pytest.raises(CompressError, match=r"runs 1 layers in floating point .*: \['conv1'\]"):
        Onnx().export(quantized(8), tmp_path / "net.onnx", images(2))
    assert not list(tmp_path.iterdir())


def test_half_step_grids_go_out_doubled_and_eight_bits_of_them_in_floating_point(tmp_path):
    report = Onnx().export(quantized(7, make=DoReFa), tmp_path / "net.onnx", images())
    assert report.deployed.float_kernels == ()
    report = Onnx().export(quantized(8, make=DoReFa), tmp_path / "net.onnx", images())
    assert report.deployed.integer_kernels == 0
    assert "levels up to 255 of half a step" in report.notes[0]


def test_the_batch_is_free(tmp_path):
    net = complete(resnet8().eval(), [images()])
    Onnx().export(net, tmp_path / "net.onnx", images())
    session = Session((tmp_path / "net.onnx").read_bytes())
    whole = session.run(images())
    assert torch.equal(torch.cat([session.run(x) for x in images().split(7)]), whole)


@pytest.mark.parametrize("change", [
    lambda net, x: LowRank({"conv1": {"rank_in": 0.5, "rank_out": 0.5}}).apply(net, x),
    lambda net, x: WeightPruning({"conv1": {"density": 0.25}}).apply(net, x),
    lambda net, x: setattr(net, "pool", nn.Sequential(nn.GELU(), net.pool)),
], ids=["low rank", "masked", "without a graph"])  # fmt: skip
def test_networks_in_floating_point_agree_with_torch(change, tmp_path):
    torch.manual_seed(0)
    net, x = ToyNet().eval(), torch.randn(8, 1, SIZE, SIZE)
    change(net, x)
    report = Onnx().export(net, tmp_path / "net.onnx", x)
    assert report.parity.max_error < 1e-5
    assert report.deployed.integer_kernels == 0


def test_weights_completed_at_seven_bits_need_no_exact_sums(tmp_path):
    net = resnet8().eval()
    for bits in (8, 7):
        report = Onnx([images()], bits).export(net, tmp_path / "net.onnx", images())
        assert any("VNNI" in note for note in report.notes) == (bits == 8)
        assert report.deployed.values_off == 0
    levels = [w for w in onnx.load(tmp_path / "net.onnx").graph.initializer if w.name.endswith(("/levels", "/kept"))]
    weights = [w for w in map(onnx.numpy_helper.to_array, levels) if w.dtype == np.int8]
    assert max(int(np.abs(w.astype(int)).max()) for w in weights) == 63


@given(st.tuples(*[st.floats(-3, -0.3)] * 3), st.tuples(*[st.booleans()] * 3), st.integers(0, 99))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_kernels_give_what_the_emulation_gives(exponents, signed, seed):
    rng = np.random.default_rng(seed)
    scales = [float(np.float32(10**e)) for e in exponents]
    first, second, last = (Grid(x, -128, 127) if s else Grid(x, 0, 255) for x, s in zip(scales, signed, strict=True))
    weight = rng.integers(-127, 128, (4, 4, 3, 3)).astype(np.int8)
    scale = np.full(4, second.scale / first.scale / 200, np.float32)
    conv = Conv("conv", ("x",), "b", weight, scale, np.zeros(4, np.int32), 8, padding=(1, 1, 1, 1))
    tensors = {"x": first, "b": second, "y": last}
    shapes = {name: GraphTensor(name, (4, 6, 6), grid) for name, grid in tensors.items()}
    graph = Graph("x", "y", shapes, [conv, Add("add", ("b", "x"), "y")])
    x = torch.from_numpy(rng.integers(first.low, first.high + 1, (3, 4, 6, 6)))
    found = Session(onnx_bytes(graph)).run(to_values(x, first))
    assert torch.equal((found / last.scale).round().long(), emulate(graph, x, FloatRounding()))


@given(
    st.tuples(st.integers(1, 5), st.integers(1, 4)), st.integers(1, 3), st.integers(5, 9), st.booleans(),
    st.floats(-3, -0.3), st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=40, deadline=None, derandomize=True)
def test_average_pooling_gives_what_the_emulation_gives(kernel, stride, size, signed, exponent, seed):
    grid = Grid(float(np.float32(10**exponent)), *((-128, 127) if signed else (0, 255)))
    out = tuple((size - width) // stride + 1 for width in kernel)
    tensors = {"x": GraphTensor("x", (5, size, size), grid), "y": GraphTensor("y", (5, *out), grid)}
    graph = Graph("x", "y", tensors, [AveragePool("pool", ("x",), "y", kernel, (stride, stride))])
    x = torch.from_numpy(np.random.default_rng(seed).integers(grid.low, grid.high + 1, (2, 5, size, size)))
    found = Session(onnx_bytes(graph)).run(to_values(x, grid))
    assert torch.equal((found / grid.scale).round().long(), emulate(graph, x, FloatRounding()))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("size", [(2, 3), (6, 6), (10, 1), (7, 4)])
def test_averages_of_whole_maps_give_what_the_emulation_gives(size, signed):
    """Sums on ties go where ONNX Runtime's factor, rounded to float32, sends them."""
    rng = np.random.default_rng(0)
    for scale in np.float32(10 ** rng.uniform(-3, -0.3, 20)):
        grid = Grid(float(scale), *((-128, 127) if signed else (0, 255)))
        tensors = {"x": GraphTensor("x", (64, *size), grid), "y": GraphTensor("y", (64, 1, 1), grid)}
        graph = Graph("x", "y", tensors, [AveragePool("pool", ("x",), "y", size, size)])
        x = torch.from_numpy(rng.integers(grid.low, grid.high + 1, (8, 64, *size)))
        found = Session(onnx_bytes(graph)).run(to_values(x, grid))
        assert torch.equal((found / grid.scale).round().long(), emulate(graph, x, FloatRounding()))


def test_windows_that_are_averaged_between_layers_are_emulated_too(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(4), nn.Conv2d(8, 8, 1), nn.Flatten())
    report = Onnx([images(64)]).export(net.append(nn.Linear(128, 5)).eval(), tmp_path / "net.onnx", images(64))
    assert report.deployed.values_off == 0


@pytest.mark.parametrize("wider", [0.5, 1.0, 5.0])
def test_a_map_that_only_one_layer_reads_on_another_grid_keeps_both(wider, tmp_path):
    """ONNX Runtime makes one pair of two pairs in a row, and leaves the bias behind them in the units of before."""
    torch.manual_seed(0)
    net = Pooled().eval()
    plan = {name: {"weight_bits": 8, "act_bits": 8} for name in ("stem", "again", "fc")}
    QuantizationAwareTraining(plan, placement=LayerInputs()).apply(net, images())
    net(images())
    with torch.no_grad():
        net.fc.input_transform.log_share.add_(log(wider))
    report = Onnx().export(net, tmp_path / "net.onnx", images(64))
    assert report.deployed.values_off == 0
    assert report.deployed.slope == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("weight_bits", [8, 4, 2])
def test_openvino_reads_what_is_written(weight_bits, tmp_path):
    openvino = pytest.importorskip("openvino", reason="the runtime is not installed")
    net, x = quantized(weight_bits), images()
    Onnx().export(net, tmp_path / "net.onnx", x)
    found = torch.from_numpy(openvino.compile_model(tmp_path / "net.onnx", "CPU")(x.numpy())[0])
    graph = lower(net, x)
    grid = graph.tensors[graph.output].grid
    with torch.no_grad():
        expected = net(x)
    steps = (found - expected).abs() / grid.scale
    assert float(steps.mean()) < 1.5  # it keeps sums at a higher precision
    assert float((found.argmax(1) == expected.argmax(1)).float().mean()) > 0.85


@pytest.mark.parametrize("make", [LSQ, DoReFa, Codebook])
def test_torch_export_reads_the_network(make, tmp_path):
    net, x = quantized(4, make=make), images(4)
    for part in net.modules():
        if isinstance(part, ActivationQuantizer):
            part.settle()  # as training and lc.load leave it
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        program = torch.export.export(net.eval(), (x,), dynamic_shapes=({0: batch},))
        torch.export.save(program, tmp_path / "net.pt2")
        found = torch.export.load(tmp_path / "net.pt2").module()(images(3))
        torch.testing.assert_close(found, net(images(3)))


def quant(x, scale, zero, bits, signed, narrow, rounding_mode):
    """QONNX's Quant, from its specification."""
    low = -(2.0 ** (bits - 1)) + narrow if signed else 0.0
    high = 2.0 ** (bits - 1) - 1 if signed else 2.0**bits - 1 - narrow
    return (np.clip(np.round(x / scale + zero), low, high) - zero) * scale


@pytest.mark.parametrize(("weight_bits", "act_bits"), [(3, 8), (1, 8), (8, 4)])
def test_qonnx_has_every_width_as_it_is(weight_bits, act_bits, tmp_path):
    net, x = quantized(weight_bits, act_bits), images(2)
    report = Qonnx().export(net, tmp_path / "net.onnx", x)
    assert report.bytes == (tmp_path / "net.onnx").stat().st_size
    assert report.parity.samples == 2
    assert report.parity.agreement == 1

    class Quant(onnx.reference.op_run.OpRun):
        op_domain = "qonnx.custom_op.general"

        def _run(self, value, scale, zero, bits, signed=1, narrow=0, rounding_mode="ROUND"):
            return (np.float32(quant(value, scale, zero, bits, signed, narrow, rounding_mode)),)

    model = onnx.load(tmp_path / "net.onnx")
    widths = {a.name: float(onnx.numpy_helper.to_array(a)) for a in model.graph.initializer if "bits/" in a.name}
    assert set(widths.values()) == {float(max(weight_bits, 2)), 8.0, float(act_bits)}
    (found,) = onnx.reference.ReferenceEvaluator(model, new_ops=[Quant]).run(None, {"x": x.numpy()})
    graph = lower(net, x)
    expected = to_values(emulate(graph, x, FloatRounding()), graph.tensors[graph.output].grid)
    assert float((torch.from_numpy(found) - expected).abs().max()) <= 2 * graph.tensors[graph.output].grid.scale


def test_qonnx_names_an_operation_without_a_form(tmp_path):
    with pytest.raises(CompressError, match=r"QONNX files cannot hold this network: operation 'gelu' in module '1'"):
        Qonnx().export(nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU()), tmp_path / "net.onnx", images(2))
    assert not list(tmp_path.iterdir())
