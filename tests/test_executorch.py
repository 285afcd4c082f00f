"""ExecuTorch: the network that is lowered computes what the graph says, and the file what the emulation gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_compress.core.errors import CompressError
from lightning_compress.export.executorch.exporter import ExecuTorch
from lightning_compress.export.executorch.network import GraphNetwork
from lightning_compress.export.executorch.rewrite import rewritten
from lightning_compress.export.integer.completion import complete
from lightning_compress.export.integer.emulate import emulate, to_values
from lightning_compress.export.integer.graph import Conv, Pad
from lightning_compress.export.integer.lower import lower
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
