"""Whole networks as .tflite files: parity with torch and with the emulation, sizes, memory, and what is refused."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.core.costs.activation_bytes import ActivationBytes
from lightning_compress.core.costs.arena_bytes import ArenaBytes
from lightning_compress.core.costs.tflite_bytes import TFLiteBytes
from lightning_compress.core.errors import CompressError
from lightning_compress.export.integer.completion import complete
from lightning_compress.export.integer.lower import lower
from lightning_compress.export.tflite.arena import arena_bytes
from lightning_compress.export.tflite.c_array import c_array
from lightning_compress.export.tflite.engines import LiteRT
from lightning_compress.export.tflite.exporter import TFLite
from lightning_compress.export.tflite.write import tflite_bytes
from lightning_compress.quantization.placements.tensors import Tensors
from lightning_compress.surgery import measure
from lightning_compress.vision.models.mlperf_tiny import tiny_resnet8
from lightning_compress.vision.models.resnet_cifar import resnet8, resnet20

pytest.importorskip("ai_edge_litert", reason="the runtime is not installed")
pytest.importorskip("tflite_micro", reason="the runtime is not installed")


def images(count: int = 16, size: int = 16) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def with_statistics(net: nn.Module) -> nn.Module:
    """Batch norms as training leaves them: running statistics of data, factors of both signs."""
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data = torch.randn(module.weight.shape, generator=generator)
            module.bias.data = 0.1 * torch.randn(module.weight.shape, generator=generator)
    for _ in range(3):
        net.train()(images())
    return net.eval()


class Inverted(nn.Module):
    """MobileNetV2's block: 1x1, depthwise 3x3, 1x1, with a sum."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        inner = 2 * width
        self.layers = nn.Sequential(
            nn.Conv2d(width, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6(inplace=True),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False), nn.BatchNorm2d(inner),
            nn.ReLU6(inplace=True), nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.stride == 1 else self.layers(x)


class Concatenating(nn.Module):
    """Two branches of different ranges, a max pool, asymmetric padding, and a flattened map."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 6, 1)
        self.pool, self.c = nn.MaxPool2d(3, 2, 1), nn.Conv2d(10, 6, 3, stride=2, groups=2)
        self.fc1, self.fc2 = nn.Linear(6 * 4 * 4, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.cat([F.relu(self.a(x)), self.b(x)], 1))
        x = F.relu(self.c(F.pad(x, (0, 1, 0, 1))))
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def mobile() -> nn.Module:
    stem = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6()
    return nn.Sequential(
        *stem, Inverted(8, 1), Inverted(8, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(8, 5)
    )


class Gated(nn.Module):
    """SiLU, hard swish, and a squeeze-and-excitation: one factor for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.SiLU())
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 1), nn.Sigmoid()
        )
        self.scaled = nn.Identity()
        self.last = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.fc(self.last(self.scaled(x * self.gate(x))))


NETWORKS = {"gated": Gated, "resnet": resnet8, "mobile": mobile, "concatenating": Concatenating}


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_both_engines_give_what_their_emulation_gives(make, tmp_path):
    torch.manual_seed(0)
    net = with_statistics(make())
    report = TFLite(calibration=[images()]).export(net, tmp_path / "net.tflite", images())
    assert report.deployed.values_off == 0
    assert report.deployed.float_kernels == ()
    assert report.deployed.slope == pytest.approx(1, abs=0.02)
    assert report.deployed.arena_bytes >= report.deployed.activation_bytes
    narrow = complete(net, [images()], bits=4)
    nibbles = TFLite(int4=True).export(narrow, tmp_path / "4.tflite", images())
    assert "tflite-micro" in nibbles.deployed.runtime
    assert nibbles.deployed.values_off == 0


def test_a_network_trained_on_tensors_keeps_its_grids(tmp_path):
    torch.manual_seed(0)
    net = with_statistics(resnet8())
    layers = measure.measure(net, images(2)).weighted
    plan = {layer.name: {"weight_bits": 8, "act_bits": 8} for layer in layers}
    QuantizationAwareTraining(plan, placement=Tensors()).apply(net, images(2))
    net(images())
    report = TFLite(header=True).export(net, tmp_path / "net.tflite", images())
    assert not any("example batch" in note for note in report.notes)
    step = lower(net, images()).tensors["fc"].grid.scale
    assert report.parity.mean_error < step  # a step on average; grids start where they clip least
    codes, channels = sum(layer.weights for layer in layers), sum(layer.out_channels for layer in layers)
    operations = 15
    assert report.bytes <= codes + (4 + 30) * channels + 500 * operations
    assert report.bytes > codes
    array = (tmp_path / "net.h").read_text()
    assert bytes(int(byte, 16) for byte in re.findall(r"0x(\w\w)", array)) == (tmp_path / "net.tflite").read_bytes()


def test_floating_point_networks_agree_with_torch(tmp_path):
    torch.manual_seed(0)
    for make in NETWORKS.values():
        report = TFLite().export(with_statistics(make()), tmp_path / "net.tflite", images())
        assert report.parity.max_error < 1e-4
        assert report.deployed.integer_kernels == 0


class Flattened(nn.Module):
    """A map that is flattened for what reads it in a way of its own."""

    def __init__(self, read: str) -> None:
        super().__init__()
        self.read, size = read, 6 * 5 * 4
        self.a, self.b, self.join, self.relu = nn.Conv2d(3, 6, 3), nn.Conv2d(3, 6, 3), nn.Identity(), nn.ReLU()
        self.point = nn.Conv2d(2 * size if read == "joined" else size, 4, 1)
        self.fc = nn.Linear(2 * size if read == "joined" else size, 4)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x).flatten(1)
        if self.read == "output":
            return a
        if self.read == "product":
            return self.fc(self.relu(a))
        if self.read == "joined":
            return self.fc(torch.cat([a, self.b(x).flatten(1)], 1))
        if self.read == "sum":
            return self.fc(self.relu(a + self.b(x).flatten(1)))
        maps = self.relu(a)
        points = self.point(maps.view(-1, maps.shape[1], 1, 1)).flatten(1)
        return points if self.read == "points" else self.join(self.fc(maps) + points)


@pytest.mark.parametrize("read", ["output", "product", "joined", "sum", "points", "both"])
def test_a_flattened_map_keeps_the_order_of_torch(read, tmp_path):
    torch.manual_seed(0)
    net, x = Flattened(read).eval(), torch.randn(16, 3, 7, 6, generator=torch.Generator().manual_seed(0))
    assert TFLite().export(net, tmp_path / "net.tflite", x).parity.max_error < 1e-5
    report = TFLite(calibration=[x]).export(net, tmp_path / "net.tflite", x)
    assert report.deployed.values_off == 0
    assert report.deployed.slope == pytest.approx(1, abs=0.02)
    assert report.deployed.arena_bytes > 0


def test_the_peak_of_live_activations_is_counted_by_hand():
    # 16 x 16 x 16 three times: the stem's output waits for the sum while two others are alive.
    graph = lower(complete(resnet8().eval(), [images()]), images())
    assert graph.peak_bytes() == 3 * 16 * 16 * 16
    assert lower(resnet8().eval(), images(), integer=False).peak_bytes() == 4 * 3 * 16 * 16 * 16


@pytest.mark.parametrize(("layer", "sentence"), [
    (nn.GELU(), r"operation 'gelu' in module '1' has no kernel"),
    (nn.AvgPool2d(3, 1, 1), r"operation 'avg_pool2d' in module '1' .* padding"),
    (nn.MaxPool2d(2, ceil_mode=True), r"operation 'max_pool2d' in module '1' .* ceil_mode"),
    (nn.Sequential(nn.Flatten(), nn.ConstantPad1d(1, 0.0)), r"operation 'pad' in module '1.1' .* it pads \(\d+,\)"),
])  # fmt: skip
def test_operations_without_a_form_are_named_and_nothing_is_written(layer, sentence, tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), layer)
    with pytest.raises(CompressError, match=sentence):
        TFLite().export(net, tmp_path / "net.tflite", images())
    assert not list(tmp_path.iterdir())


def test_an_example_of_another_shape_is_refused(tmp_path):
    with pytest.raises(CompressError, match=r"does not accept an example of shape \(4, 5, 16, 16\)"):
        TFLite().export(resnet8(), tmp_path / "net.tflite", torch.zeros(4, 5, 16, 16))


def test_a_network_never_calibrated_is_refused(tmp_path):
    net = resnet8().eval()
    QuantizationAwareTraining({"conv1": {"weight_bits": 8, "act_bits": 8}}, placement=Tensors()).apply(net, images(2))
    with pytest.raises(CompressError, match="has seen no batch"):
        TFLite().export(net, tmp_path / "net.tflite", images())


@pytest.mark.parametrize(("limits", "sentence"), [
    ({"flash": 80e3}, r"takes 87,\d\d\d bytes of flash, and the limit is 80,000; prune to fewer channels"),
    ({"ram": 16e3}, r"takes 19,\d\d\d bytes of ram, and the limit is 16,000"),
])  # fmt: skip
def test_a_network_above_a_limit_is_not_written(limits, sentence, tmp_path):
    with pytest.raises(CompressError, match=sentence):
        TFLite(calibration=[images()], **limits).export(resnet8(), tmp_path / "net.tflite", images())
    assert not list(tmp_path.iterdir())


def test_a_layer_that_xnnpack_leaves_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(LiteRT, "parts", lambda engine: (3, ["AVERAGE_POOL_2D", "CONV_2D"]))
    with pytest.raises(CompressError, match=r"does not run 1 of the layers in XNNPACK \(\['CONV_2D'\]\)"):
        TFLite(calibration=[images()]).export(resnet8(), tmp_path / "net.tflite", images())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("make", "least"), [(resnet8, 0.98), (resnet20, 0.98), (mobile, 0.6)])
def test_the_predicted_file_is_an_upper_bound(make, least):
    net = make().eval()
    size = len(tflite_bytes(lower(complete(net, [images(2)]), images(2))))
    predicted = TFLiteBytes()(measure.measure(net, images(2)))
    assert least * predicted <= size <= predicted


@pytest.mark.parametrize(("make", "size"), [(tiny_resnet8, 32), (resnet8, 16), (mobile, 16)])
def test_the_predicted_arena_is_close_and_the_activations_are_a_lower_bound(make, size):
    net, example = make().eval(), images(2, size)
    arena = arena_bytes(tflite_bytes(lower(complete(net, [example]), example)))
    profile = measure.measure(net, example)
    assert ActivationBytes(integer=True)(profile) <= arena
    assert ArenaBytes()(profile) == pytest.approx(arena, rel=0.1)


NAMES = {"net-2.1": "net_2_1", "8bit": "model_8bit", "int": "model_int", "": "model_", "gr\u00f6\u00dfe": "gr__e"}


@pytest.mark.parametrize(("name", "expected"), NAMES.items())
def test_a_c_array_has_a_name_that_c_takes(name, expected):
    assert f"static const unsigned char {expected}[]" in c_array(b"\0\1", name)


def test_layers_of_four_bits_that_take_a_byte_a_weight_are_named(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 5))
    narrow = complete(net, [images()], bits=4)
    report = TFLite(int4=True).export(narrow, tmp_path / "net.tflite", images())
    assert "tflite-micro" in report.deployed.runtime
    assert any(note.startswith("weights of ['3'] take a byte each") for note in report.notes)
    alone = complete(net[2:], [torch.rand(4, 4, 14, 14)], bits=4)
    report = TFLite(int4=True).export(alone, tmp_path / "net.tflite", torch.rand(4, 4, 14, 14))
    assert "LiteRT" in report.deployed.runtime  # no weight is in 4 bits, and XNNPACK runs the file
    assert not any("TFLite's own kernels" in note for note in report.notes)
