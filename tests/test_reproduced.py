"""Test that what is packed gives the outputs of its network, or is refused; so is a network that cannot receive it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lightning_compress as lc
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.core.errors import CompressError, PackedFileError
from lightning_compress.surgery import measure, transforms
from lightning_compress.testing.toys import ToyNet


class Between(nn.Module):
    """Something happens between the convolution and the batch norm, or beside it."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(8, 4)
        nn.init.constant_(self.norm.running_mean, 0.5)
        nn.init.constant_(self.norm.bias, 1.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, other = self.conv(x), 0
        if self.how == "write":
            h[:, :, :4] = 0
        elif self.how == "write through a view":
            h.flatten(2)[:, :, :4] = 0
        elif self.how == "relu in place":
            F.relu(h, inplace=True)
        elif self.how == "copied elsewhere":
            other = torch.zeros(len(x), 8, 8, 8)
            other[:, :, :8] = h
        elif self.how == "out=":
            other = torch.empty_like(h)
            torch.mul(h, 2, out=other)
        return self.fc((F.relu(self.norm(h)) + other).mean((2, 3)))


@pytest.mark.parametrize(
    "how", ["nothing", "write", "write through a view", "relu in place", "copied elsewhere", "out="]
)
def test_a_norm_is_folded_only_where_nothing_comes_between(how, tmp_path):
    torch.manual_seed(0)
    net, x = Between(how), torch.randn(4, 3, 8, 8)
    QuantizationAwareTraining({"conv": {"weight_bits": 8}}).apply(net, x)
    net.eval()
    lc.save(net, tmp_path / "a", example_input=x)
    loaded = lc.load(tmp_path / "a", Between(how))
    with torch.no_grad():  # out= knows no gradients
        found, expected = loaded(x), net(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert isinstance(loaded.norm, nn.Identity) == (how == "nothing")


def test_a_save_that_does_not_reproduce_the_outputs_is_an_error(tmp_path, monkeypatch):
    fold = transforms.fold_batch_norm
    monkeypatch.setattr(transforms, "fold_batch_norm", lambda *of: (1.1 * fold(*of)[0], fold(*of)[1]))
    net, x = Between("nothing"), torch.randn(4, 3, 8, 8)
    QuantizationAwareTraining({"conv": {"weight_bits": 8}}).apply(net, x)
    with pytest.raises(CompressError, match="does not give the outputs of this Between: they differ by"):
        lc.save(net.eval(), tmp_path / "a", example_input=x)
    assert not (tmp_path / "a").exists()


class Random(ToyNet):
    """Its outputs are random, which says nothing of the file."""

    def forward(self, x):
        return super().forward(x) + F.dropout(torch.ones(4), 0.5, training=True)


def test_a_network_with_random_outputs_is_saved(tmp_path):
    x = torch.randn(4, 1, 8, 8)
    lc.save(Random().eval(), tmp_path / "a", example_input=x)
    lc.load(tmp_path / "a", Random())


class Odd(nn.Module):
    """Has a parameter or buffer of another type."""

    def __init__(self, value: torch.Tensor, buffer: bool) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        if buffer:
            self.register_buffer("odd", value)
        else:
            self.odd = nn.Parameter(value, requires_grad=value.is_floating_point() or value.is_complex())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) * self.odd.abs().sum()


ODD = [
    torch.tensor([1 + 2j]),
    torch.tensor([3]),
    torch.tensor([2**40 + 1]),
    torch.tensor([True]),
    torch.tensor([1.1], dtype=torch.float64),
]


@pytest.mark.parametrize("value", ODD, ids=lambda value: str(value.dtype))
def test_a_parameter_of_another_type_is_refused_and_a_buffer_kept(value, tmp_path):
    x = torch.randn(2, 4)
    if value.dtype is not torch.bool:  # has no absolute value
        with pytest.raises(CompressError, match=r"parameter 'odd' is of type torch\."):
            lc.save(Odd(value, False), tmp_path / "a", example_input=x)
        lc.save(Odd(value, True), tmp_path / "a", example_input=x)
        assert torch.equal(lc.load(tmp_path / "a", Odd(torch.zeros_like(value), True)).odd, value)


def test_double_precision_of_a_whole_network_is_rounded_with_a_warning(tmp_path):
    net, x = nn.Linear(4, 2).double(), torch.randn(2, 4, dtype=torch.float64)
    with pytest.warns(UserWarning, match="rounded to 7 digits"):
        lc.save(net, tmp_path / "a", example_input=x)
    loaded = lc.load(tmp_path / "a", nn.Linear(4, 2).double())
    assert torch.equal(loaded.weight, net.weight.float().double())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a packed file, and what its network gives for an input."""
    torch.manual_seed(0)
    net, x = ToyNet(), torch.randn(4, 1, 8, 8)
    plan = {layer.name: {"weight_bits": 8} for layer in measure.measure(net, x).weighted}
    QuantizationAwareTraining(plan).apply(net, x)
    net.eval()
    return lc.save(net, tmp_path_factory.mktemp("saved") / "a", example_input=x), x, net(x).detach()


def test_a_network_on_the_meta_device_is_told_what_to_do(saved):
    with torch.device("meta"):
        net = ToyNet()
    with pytest.raises(PackedFileError, match=r"'stem\.0\.weight' of this ToyNet is on the meta device"):
        lc.load(saved[0], net)


def test_a_lazy_network_is_told_what_to_do(saved):
    net = nn.Sequential(nn.LazyConv2d(8, 3))
    with pytest.raises(PackedFileError, match=r"layer '0' of this Sequential is lazy .* run the network once"):
        lc.load(saved[0], net)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_network_of_another_precision_is_loaded(saved, dtype):
    path, x, expected = saved
    found = lc.load(path, ToyNet().to(dtype))(x.to(dtype))
    assert found.dtype == dtype
    assert (found.float() - expected).norm() < 16 * torch.finfo(dtype).eps * expected.norm() + 1e-5


def test_a_network_in_channels_last_is_loaded(saved):
    path, x, expected = saved
    net = lc.load(path, ToyNet().to(memory_format=torch.channels_last))
    torch.testing.assert_close(net(x.to(memory_format=torch.channels_last)), expected)
