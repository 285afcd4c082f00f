"""ExecuTorch: the network that is lowered computes what the graph says, and the file what the emulation gives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_compress.core.errors import CompressError
from lightning_compress.export.executorch.exporter import ExecuTorch
from lightning_compress.export.executorch.network import GraphNetwork
from lightning_compress.export.executorch.rewrite import rewritten
from lightning_compress.export.integer.completion import complete
from lightning_compress.export.integer.emulate import emulate, to_values
from lightning_compress.export.integer.graph import Conv, Pad
from lightning_compress.export.integer.lower import lower
from lightning_compress.export.integer.marked import NoIntegerFormError
from lightning_compress.export.integer.rounding.single import SingleRounding

SIZE = 12  # the mean is then over 9 values, which never leaves a tie


class Mixed(nn.Module):
    """One of each kernel: uneven padding, a depthwise convolution, a sum, a concatenation, both poolings."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.BatchNorm2d(4), nn.ReLU6())
        self.side = nn.Conv2d(4, 4, 1)
        self.relu, self.pool = nn.ReLU(), nn.MaxPool2d(2)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.pool(torch.cat([self.relu(self.deep(x) + self.side(x)), x], 1))
        return self.fc(x.mean((2, 3)))


def network() -> nn.Module:
    torch.manual_seed(0)
    net = Mixed().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return net


def images(count: int = 16) -> Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("bits", [8, 4])
def test_the_lowered_network_computes_what_the_graph_says(bits):
    graph = lower(complete(network(), [images()], bits=bits), images())
    grid = graph.grid(graph.output)
    found = GraphNetwork(graph)(images())
    expected = to_values(emulate(rewritten(graph), images(), SingleRounding()), grid)
    # XNNPACK rounds sums in fixed point, torch in float32: a step where that meets a tie, and no more.
    steps = ((found - expected) / grid.scale).abs()
    assert steps.max() < 1.5
    assert (steps > 0.5).float().mean() < 0.02


def test_the_lowered_network_in_floating_point_is_the_network():
    graph = lower(network(), images(), integer=False)
    assert torch.allclose(GraphNetwork(graph)(images()), network()(images()), atol=1e-5)


class Reads(nn.Module):
    """A map, and what a function makes of it and of a second layer."""

    def __init__(self, function, norm: nn.Module) -> None:
        super().__init__()
        self.function, self.norm = function, norm
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(400, 5)
        self.relu, self.drop, self.point = nn.ReLU(inplace=True), nn.Dropout(), nn.Conv2d(400, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, self.norm(self.conv(x)))


RIGHT = {
    "same tensor in place": lambda n, h: (n.relu(n.drop(h)), n.fc(h.flatten(1)))[1],
    "view in place, read itself": lambda n, h: n.fc(n.relu(h.flatten(1))),
    "view in place, map read before": lambda n, h: n.fc((h + h).flatten(1) + n.relu(h.flatten(1))),
    "flat as a map": lambda n, h: n.point(h.flatten(1).view(-1, 400, 1, 1)).flatten(1),
    "types of floating point": lambda n, h: n.fc(h.to(torch.float64).float().flatten(1)),
    "norm behind a copy": lambda n, h: n.fc((n.norm(h.clone()) + h).flatten(1)),
    "dropout of nothing": lambda n, h: n.fc(F.dropout(h, 0.0, True).flatten(1)),
}
REFUSED = {
    "view in place": (lambda n, h: n.fc((n.relu(h.flatten(1)), h)[1].flatten(1)), "in place .* use inplace=False"),
    "map in place": (lambda n, h: [f := h.flatten(1), n.relu(h), n.fc(f)][2], "in place .* use inplace=False"),
    "int": (lambda n, h: n.fc(h.to(torch.int32).float().flatten(1)), "makes torch.int32 of torch.float32"),
    "bool": (lambda n, h: n.fc(h.bool().to(torch.float32).flatten(1)), "makes torch.bool of torch.float32"),
    "dropout": (lambda n, h: n.fc(F.dropout(h, 0.5, True).flatten(1)), "pass training=self.training"),
    "dropout2d": (lambda n, h: n.fc(F.dropout2d(h, 0.5, True).flatten(1)), "pass training=self.training"),
}


@pytest.mark.parametrize("function", RIGHT.values(), ids=RIGHT)
def test_the_graph_computes_what_the_network_does(function):
    torch.manual_seed(0)
    net = Reads(function, nn.BatchNorm2d(4)).eval()
    nn.init.normal_(net.norm.weight)
    found = GraphNetwork(lower(net, images(), integer=False))(images())
    assert torch.allclose(found, net(images()), atol=1e-5)


@pytest.mark.parametrize(("function", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_the_graph_cannot_compute_is_named(function, sentence):
    with pytest.raises(NoIntegerFormError, match=sentence):
        lower(Reads(function, nn.Identity()).eval(), images(), integer=False)


@pytest.mark.parametrize("integer", [False, True])
def test_a_batch_norm_without_statistics_is_named(integer):
    net = Reads(RIGHT["flat as a map"], nn.BatchNorm2d(4, track_running_stats=False)).eval()
    with pytest.raises(NoIntegerFormError, match=r"in module 'norm' .* statistics of the batch"):
        lower(complete(net, [images()]) if integer else net, images(), integer)


def test_uneven_padding_becomes_an_operation():
    graph = lower(network(), images(), integer=False)
    even = rewritten(graph)
    assert [type(operation) for operation in even.operations[:2]] == [Pad, Conv]
    assert even.operations[1].padding == (0, 0, 0, 0)
    assert even.tensors[even.operations[0].output].shape == (3, SIZE + 1, SIZE + 1)
    assert len(even.operations) == len(graph.operations) + 1


def test_a_batch_of_nothing_is_refused(tmp_path):
    with pytest.raises(CompressError, match="batch is 0"):
        ExecuTorch(batch=0).export(network(), tmp_path / "net.pte", images())


def test_without_executorch_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_compress.export.executorch.exporter.find_spec", lambda name: None)
    with pytest.raises(CompressError, match=r'pip install "lightning-compress\[executorch\]"'):
        ExecuTorch().export(network(), tmp_path / "net.pte", images())
    assert not list(tmp_path.iterdir())


class Joined(nn.Module):
    """What an activation function clips on a grid that goes below zero, and beside it what it does not."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.relu, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(12, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.cat([self.relu(self.a(x)), self.b(x)], 1))


CLIPPED = {"a signed grid": (Joined, 8), "four bits": (network, 4)}


@pytest.mark.parametrize(("make", "bits"), CLIPPED.values(), ids=CLIPPED)
def test_what_clips_stands_between_a_dequantization_and_a_quantization(make, bits):
    program = torch.export.export(GraphNetwork(lower(complete(make(), [images()], bits=bits), images())), (images(),))
    decomposed = torch.ops.quantized_decomposed
    clips = [node for node in program.graph.nodes if node.target is torch.ops.aten.clamp.default]
    assert clips
    for node in clips:
        assert node.args[0].target is decomposed.dequantize_per_tensor.default
        assert [user.target for user in node.users] == [decomposed.quantize_per_tensor.default]


@pytest.mark.parametrize(("make", "bits"), CLIPPED.values(), ids=CLIPPED)
def test_what_clips_runs_in_integers(make, bits, tmp_path):
    pytest.importorskip("executorch", reason="the runtime is not installed")
    net = complete(make(), [images()], bits=bits)
    report = ExecuTorch().export(net, tmp_path / "net.pte", images())
    assert (report.deployed.values_off, report.deployed.float_kernels) == (0, ())
    assert report.notes[-1] == "1 parts of the network run in XNNPACK"


def test_the_file_gives_what_the_emulation_gives(tmp_path):
    pytest.importorskip("executorch", reason="the runtime is not installed")
    report = ExecuTorch(batch=3, calibration=[images()]).export(network(), tmp_path / "net.pte", images())
    assert report.deployed.values_off == 0
    assert report.deployed.float_kernels == ()
    assert report.deployed.integer_kernels == 4
    assert report.deployed.slope == pytest.approx(1, abs=0.02)
    assert "in XNNPACK" in report.notes[-1]
    assert report.bytes == (tmp_path / "net.pte").stat().st_size


def test_transposed_convolutions_run_in_integers(tmp_path):
    pytest.importorskip("executorch", reason="the runtime is not installed")
    torch.manual_seed(0)
    up = nn.ConvTranspose2d(8, 6, 3, 2, 1, 1), nn.ReLU(), nn.ConvTranspose2d(6, 4, 5, 2, 1), nn.ConvTranspose2d(4, 3, 2)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), *up).eval()
    report = ExecuTorch(batch=2, calibration=[images()]).export(net, tmp_path / "net.pte", images())
    assert (report.deployed.values_off, report.deployed.integer_kernels) == (0, 4)
    assert report.notes[-1] == "1 parts of the network run in XNNPACK"


@pytest.mark.parametrize("settings", [{"groups": 2}, {"dilation": 2}])
def test_transposed_convolutions_that_xnnpack_has_no_kernel_for_are_refused(settings):
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 6, 3, 2, **settings)).eval()
    with pytest.raises(CompressError, match=r"transposed convolution '1' has .* groups=1 and dilation=1"):
        GraphNetwork(lower(complete(net, [images()]), images()))


class Gated(nn.Module):
    """An activation function that is in integers, and a gate of a value per channel, as in squeeze and excitation."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.conv, self.act, self.deep = nn.Conv2d(3, 8, 3, padding=1), act, nn.Conv2d(8, 8, 3, padding=1)
        self.pool, self.down, self.gate = nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Sigmoid()
        self.relu, self.last, self.fc = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.deep(self.act(self.conv(x))))
        return self.fc(self.last(x * self.gate(self.down(self.pool(x)))).flatten(1))


def gated(act: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return Gated(act()).eval()


def test_no_two_readers_share_a_dequantization():
    graph = lower(complete(gated(nn.SiLU), [images()]), images())
    made = torch.ops.quantized_decomposed.dequantize_per_tensor.default
    program = torch.export.export(GraphNetwork(graph), (images(),))
    assert {len(node.users) for node in program.graph.nodes if node.target is made} == {1}


@pytest.mark.parametrize("act", [nn.Sigmoid, nn.SiLU, nn.Hardswish])
def test_gates_run_in_integers(act, tmp_path):
    pytest.importorskip("executorch", reason="the runtime is not installed")
    report = ExecuTorch(batch=4, calibration=[images()]).export(gated(act), tmp_path / "net.pte", images())
    assert report.deployed.values_off == 0
    assert report.deployed.float_kernels == ()
    assert report.notes[-1] == "1 parts of the network run in XNNPACK"
