"""``lc.export``: formats by the ending of the path, packed files as sources, and sentences for bad input."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lightning_compress as lc
from lightning_compress.core.errors import CompressError
from lightning_compress.export.compared import checked_outputs
from lightning_compress.export.deployable import Deployable, deployable
from lightning_compress.export.executorch.exporter import ExecuTorch
from lightning_compress.export.onnx.exporter import Onnx
from lightning_compress.export.tflite.exporter import TFLite
from lightning_compress.quantization.placements.tensors import Tensors
from lightning_compress.surgery import transform_specs
from lightning_compress.testing.toys import SIZE, PlainModule, ToyNet


@pytest.fixture
def images():
    return torch.randn(8, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def test_a_packed_file_and_the_network_in_it_give_the_same_file(images, tmp_path):
    pytest.importorskip("ai_edge_litert", reason="the runtime is not installed")
    torch.manual_seed(0)
    net = ToyNet().eval()
    dense = copy.deepcopy(net)
    lc.QuantizationAwareTraining(
        {name: {"weight_bits": 8, "act_bits": 8} for name in ("stem.0", "conv1", "conv2", "fc")}
    ).apply(net, images)
    net(images)
    packed = lc.save(net, tmp_path / "packed.safetensors")
    for source, network in ((net, None), (packed, dense)):
        report = lc.export(source, tmp_path / "net.tflite", images, network=network)
        assert report.deployed.integer_kernels == 4
        assert report.deployed.values_off == 0


def test_a_module_brings_its_own_example(images, tmp_path):
    pytest.importorskip("ai_edge_litert", reason="the runtime is not installed")
    module = PlainModule()
    module.example_input_array = images
    assert lc.export(module, tmp_path / "net.tflite", calibration=[images]).deployed.integer_kernels == 4


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"path": "net.pb"}, r"no format is known for 'net.pb'; end it with one of \["),
        ({"source": "model.safetensors"}, "is a file; pass network="),
        ({"example_input": None}, "pass example_input="),
        ({"exporter": TFLite(), "calibration": []}, r"give calibration to the exporter: TFLite\(calibration=...\)"),
        ({"calibration": []}, "calibration holds no batch"),
        ({"example_input": (1, 2)}, "must be one tensor with the batch first, got tuple"),
        ({"example_input": torch.zeros(0, 1, SIZE, SIZE)}, r"of shape \(0, .*\) holds no sample"),
        ({"example_input": torch.tensor(1.0)}, r"of shape \(\) holds no sample"),
        ({"example_input": torch.full((2, 1, SIZE, SIZE), torch.nan)}, "holds values that are not finite"),
        ({"exporter": TFLite(flash="40k")}, "flash is '40k'; it must be a number of bytes above 0"),
        ({"exporter": TFLite(ram=-1)}, "ram is -1; it must be"),
        ({"exporter": ExecuTorch(batch="1")}, "batch is '1'"),
        ({"exporter": Onnx([torch.zeros(2, 1, SIZE, SIZE)], weight_bits=0)}, "bits must be a whole number from 1 to 8"),
    ],
)
def test_bad_arguments_are_told_in_a_sentence(arguments, sentence, images, tmp_path):
    given = {"source": ToyNet(), "path": "net.tflite", "example_input": images, **arguments}
    with pytest.raises(CompressError, match=sentence):
        lc.export(**{**given, "path": tmp_path / given["path"]})
    assert not list(tmp_path.iterdir())


def test_a_packed_file_keeps_quantizers_that_are_shared_or_at_no_layer(images, tmp_path):
    torch.manual_seed(0)
    net = ToyNet().eval()
    dense = copy.deepcopy(net)
    plan = {name: {"weight_bits": 4, "act_bits": 8} for name in ("stem.0", "conv1", "conv2", "fc")}
    lc.QuantizationAwareTraining(plan, placement=Tensors()).apply(net, images)
    expected = net(images)
    for _ in range(2):  # what was loaded can be saved again
        loaded = lc.load(lc.save(net, tmp_path / "net.safetensors"), copy.deepcopy(dense))
        steps = (loaded(images) - expected) / net.fc.output_transform.scale_for(expected)
        assert steps.abs().max() < 2  # folding a batch norm moves values over the edge of a step
        assert (steps.abs() > 0.5).float().mean() < 0.35
        places = transform_specs.describe(loaded)
        assert places["conv1"]["input_transform"] == {"module": "stem.2", "slot": "output_transform"}
        assert places["fc"]["input_transform"] == {"module": "pool", "slot": "input_transform"}
        assert {"bn2", "fc"} <= {name for name, spec in places.items() if "output_transform" in spec}
        net = loaded


PIXELS = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network(between: nn.Module) -> nn.Module:
    """Return a network with a module between its two layers."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), between, nn.Flatten(), nn.LazyLinear(4)).eval()


class Draws(nn.Module):
    """Dropout that eval mode does not end."""

    def forward(self, x):
        return F.dropout(x, 0.5, True)


@pytest.mark.parametrize(("between", "sentence"), [
    (nn.AvgPool2d(2, divisor_override=3), r"'net.onnx' would not give the outputs .* differ by 0.\d+ .* in module '1'"),
    (Draws(), "the network draws random numbers in eval mode"),
], ids=["divisor", "dropout"])  # fmt: skip
def test_a_file_that_torch_writes_wrongly_is_not_left(between, sentence, tmp_path):
    for package in ("onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason="the runtime is not installed")
    net = network(between)
    net(PIXELS)
    with pytest.raises(CompressError, match=sentence):
        lc.export(net, tmp_path / "net.onnx", example_input=PIXELS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("change", "integers", "right"), [
    (lambda y: 1.001 * y, False, True),
    (lambda y: 1.05 * y, False, False),
    (lambda y: y.flip(1), False, False),
    (lambda y: y * torch.nan, False, False),
    (lambda y: y + 0.02 * torch.randn_like(y), True, True),
    (lambda y: y.flip(1), True, False),
    (lambda y: y.flip(0), True, False),
    (lambda y: 2 * y, True, False),
], ids=["near", "larger", "turned", "nan", "rounded", "turned-int8", "moved-int8", "double-int8"])  # fmt: skip
def test_outputs_may_differ_by_what_kernels_round(change, integers, right):
    net = network(nn.ReLU())
    with torch.no_grad():
        expected = net(PIXELS)
    found = deployable(net, PIXELS, [PIXELS] if integers else None)
    run = lambda: change(expected)  # noqa: E731
    if right:
        assert torch.equal(checked_outputs(found, PIXELS, expected, lambda: expected, Path("net")), expected)
        checked_outputs(found, PIXELS, expected, run, Path("net"))
    else:
        with pytest.raises(CompressError, match="'net' would not give the outputs of the network"):
            checked_outputs(found, PIXELS, expected, run, Path("net"))


def test_a_file_may_draw_random_numbers_where_the_network_does():
    net = network(Draws())
    with torch.no_grad():
        expected = net(PIXELS)
        checked_outputs(Deployable(None, net, ("drawing",)), PIXELS, expected, lambda: net(PIXELS), Path("net"))
