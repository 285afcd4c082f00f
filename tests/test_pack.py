"""The packed file: what comes back is what was saved, and anything else is refused with a sentence."""

from __future__ import annotations

import copy
import os
import random
from functools import partial
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

import lightning_compress as lc
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.core.errors import CompressError, PackedFileError
from lightning_compress.core.packed_size import HEADER_BYTES, entry_bytes, packed_bytes
from lightning_compress.core.plan import Plan
from lightning_compress.quantization.quantizers.dorefa import DoReFa
from lightning_compress.quantization.quantizers.lsq import LSQ
from lightning_compress.quantization.quantizers.lsq_activation import LSQActivation
from lightning_compress.quantization.quantizers.min_max import MinMax
from lightning_compress.quantization.quantizers.min_max_activation import MinMaxActivation
from lightning_compress.quantization.quantizers.pact import PACT
from lightning_compress.surgery import measure
from lightning_compress.surgery.structure import structure_of
from lightning_compress.testing.toys import PlainModule, ToyNet
from lightning_compress.vision.models.resnet_cifar import resnet8
from lightning_compress.vision.models.vgg_cifar import vgg16_bn

NETS = {
    "toy": (ToyNet, (4, 1, 8, 8)),
    "resnet8": (partial(resnet8, in_channels=1), (4, 1, 8, 8)),
    "vgg16": (vgg16_bn, (2, 3, 32, 32)),
    "mobilenet": (partial(torchvision.models.mobilenet_v2, num_classes=10), (2, 3, 64, 64)),
    "convnext": (partial(torchvision.models.convnext_tiny, num_classes=10), (2, 3, 64, 64)),
}
QUANTIZERS = {"lsq": (LSQ, LSQActivation), "min_max": (MinMax, MinMaxActivation), "dorefa": (DoReFa, PACT)}


def trained(net: nn.Module) -> nn.Module:
    """Statistics and scales as after training, some of them negative."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.normal_(module.weight, 1, 0.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return net.eval()


def compressed(name: str, weight_bits, act_bits, quantizers="lsq", per_channel=True):
    torch.manual_seed(0)
    make, shape = NETS[name]
    net, example = trained(make()), torch.randn(shape)
    rng = random.Random(0)
    names = [layer.name for layer in measure.measure(net, example).weighted]
    plan = Plan({n: {"weight_bits": rng.choice(weight_bits), "act_bits": rng.choice(act_bits)} for n in names})
    QuantizationAwareTraining(plan, *QUANTIZERS[quantizers], per_channel=per_channel).apply(net, example)
    with torch.no_grad():
        net(example)
    return net, make, example


def header_bytes(file: Path) -> int:
    """Bytes before the tensors of a safetensors file: the size of its header, and the header."""
    with file.open("rb") as opened:
        return 8 + int.from_bytes(opened.read(8), "little")


def saved(net, tmp_path, example=None):
    return lc.save(net, tmp_path / "net.safetensors", example)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("weight_bits", [[1, 2, 3, 4, 5, 6, 7, 8, 32], [32]], ids=["mixed", "fp32"])
@torch.no_grad()
def test_outputs_come_back_to_float_tolerance(name, weight_bits, tmp_path):
    net, make, example = compressed(name, weight_bits, [32])
    file = saved(net, tmp_path, example)
    expected = net(example)
    for dequantize in (False, True):
        found = lc.load(file, make(), dequantize)(example)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("quantizers", QUANTIZERS)
@pytest.mark.parametrize("per_channel", [True, False])
@torch.no_grad()
def test_quantized_inputs_come_back(quantizers, per_channel, tmp_path):
    net, make, example = compressed("resnet8", [2, 3, 4, 8], [2, 4, 8, 32], quantizers, per_channel)
    found = lc.load(saved(net, tmp_path), make())(example)
    torch.testing.assert_close(found, net(example), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bits", range(1, 9))
@torch.no_grad()
def test_every_width_keeps_its_codes(bits, tmp_path):
    net, make, _ = compressed("toy", [bits], [32])
    loaded = lc.load(saved(net, tmp_path), make())
    for name in ("conv1", "conv2", "fc"):
        before, after = (n.get_submodule(name).parametrizations["weight"][0] for n in (net, loaded))
        codes, _ = before.codes(net.get_submodule(name).parametrizations["weight"].original)
        again, _ = after.codes(loaded.get_submodule(name).parametrizations["weight"].original)
        assert torch.equal(codes, again)


@torch.no_grad()
def test_a_loaded_network_saves_to_an_equal_one(tmp_path):
    net, make, example = compressed("resnet8", [2, 4, 8, 32], [4, 32])
    first = lc.load(saved(net, tmp_path), make())
    second = lc.load(lc.save(first, tmp_path / "again.safetensors", example), make())
    assert torch.equal(first(example), second(example))


@torch.no_grad()
def test_a_pruned_and_quantized_network_comes_back(tmp_path):
    torch.manual_seed(0)
    net, example = trained(ToyNet()), torch.randn(4, 1, 8, 8)
    ChannelPruning({"conv1": {"channels": 0.5}, "stem.0": {"channels": 0.25}}).apply(net, example)
    QuantizationAwareTraining({n: {"weight_bits": 4, "act_bits": 8} for n in ("conv1", "conv2", "fc")}).apply(
        net, example
    )
    net(example)
    loaded = lc.load(saved(net, tmp_path), ToyNet())
    torch.testing.assert_close(loaded(example), net(example), rtol=1e-4, atol=1e-4)
    assert structure_of(loaded).plan == structure_of(net).plan
    assert lc.inspect(tmp_path / "net.safetensors").plan == structure_of(net).plan


def test_dequantized_is_a_plain_network(tmp_path):
    net, make, _ = compressed("resnet8", [4], [8])
    plain = lc.load(saved(net, tmp_path), make(), dequantize=True)
    assert not any(m._forward_pre_hooks for m in plain.modules())
    assert not any("parametrizations" in key for key in plain.state_dict())
    assert isinstance(plain.bn1, nn.Identity)


def test_saving_changes_nothing(tmp_path):
    net, _, example = compressed("resnet8", [4], [8])
    before, keys = net(example), list(net.state_dict())
    saved(net, tmp_path)
    assert torch.equal(net(example), before)
    assert list(net.state_dict()) == keys


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("weight_bits", [[32], [1], [4], [2, 3, 5, 8, 32]], ids=str)
@pytest.mark.parametrize("act_bits", [[32], [8]], ids=str)
def test_predicted_bytes_are_those_of_the_tensors_and_bound_the_header(name, weight_bits, act_bits, tmp_path):
    net, _, example = compressed(name, weight_bits, act_bits)
    file, profile = saved(net, tmp_path, example), structure_of(net).profile
    size, header = os.path.getsize(file), header_bytes(file)
    bound = HEADER_BYTES + sum(map(entry_bytes, profile))  # compressed text, of a size that no arithmetic gives
    assert size - header == packed_bytes(profile) - bound
    assert header <= bound <= header + max(0.02 * size, 400)


def test_a_lightning_module_and_its_bare_network_share_a_file(tmp_path):
    module = PlainModule()
    module.example_input_array = torch.zeros(2, 1, 8, 8)
    file = saved(module, tmp_path)
    bare, other = lc.load(file, ToyNet()), lc.load(file, PlainModule())
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(bare(x), other(x))


def test_a_network_of_unknown_shapes_asks_for_an_example(tmp_path):
    with pytest.raises(CompressError, match="pass example_input="):
        saved(ToyNet(), tmp_path)


def test_an_input_quantizer_without_data_is_named(tmp_path):
    net = ToyNet()
    QuantizationAwareTraining({"conv1": {"act_bits": 4}}).apply(net, torch.zeros(2, 1, 8, 8))
    with pytest.raises(CompressError, match="layer 'conv1' has seen no batch"):
        saved(net, tmp_path)


@pytest.mark.parametrize("kind", [LSQActivation, MinMaxActivation])
def test_an_input_of_zeros_alone_is_saved(kind, tmp_path):
    net = ToyNet().eval()
    nn.init.zeros_(net.conv1.weight)  # as after all of its channels have died
    nn.init.zeros_(net.conv1.bias)
    quantize = QuantizationAwareTraining({"conv2": {"act_bits": 4}}, activation_quantizer=kind)
    x = torch.randn(2, 1, 8, 8)
    quantize.apply(net, x)
    net(x)
    torch.testing.assert_close(lc.load(saved(net, tmp_path), ToyNet()).eval()(x), net(x))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    net, _, _ = compressed("toy", [2, 4], [4])
    return saved(net, tmp_path_factory.mktemp("small"))


def test_another_network_is_named_by_its_layer(small):
    with pytest.raises(PackedFileError, match=r"made for another network: it has a layer 'stem\.0'"):
        lc.load(small, nn.Sequential(nn.Conv2d(1, 8, 3)))
    with pytest.raises(PackedFileError, match=r"made for another network: layer 'stem\.0' is conv 1->8"):
        lc.load(small, ToyNet(4))


def test_a_network_with_more_layers_or_other_buffers_is_refused(tmp_path):
    def net(width=3, *more):
        made = nn.Sequential(nn.Conv2d(1, 2, 3), *more)
        made.register_buffer("table", torch.zeros(width))
        return made

    file = saved(net(), tmp_path, torch.zeros(2, 1, 8, 8))
    with pytest.raises(PackedFileError, match="Sequential has a layer '1', the file has not"):
        lc.load(file, net(3, nn.Conv2d(2, 2, 1)))
    with pytest.raises(PackedFileError, match="layer 'table' is buffer"):
        lc.load(file, net(1))
    other = net()
    other[0] = nn.PReLU(2)
    with pytest.raises(PackedFileError, match="it has a layer '0', Sequential has not"):
        lc.load(file, other)


@torch.no_grad()
def test_precision_and_frozen_weights_of_the_target_stay(tmp_path):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).double().eval()
    file = saved(net, tmp_path, torch.zeros(2, 1, 8, 8, dtype=torch.float64))
    target = copy.deepcopy(net).requires_grad_(False)
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(lc.load(file, target)(x), net(x), rtol=1e-5, atol=1e-6)
    assert not target[0].weight.requires_grad


@pytest.mark.parametrize("bits", [4, 32])
def test_nan_is_not_saved(bits, tmp_path):
    net, example = nn.Sequential(nn.Conv2d(1, 2, 3)), torch.zeros(2, 1, 8, 8)
    QuantizationAwareTraining({"0": {"weight_bits": bits}}).apply(net, example)
    with torch.no_grad():
        net.get_parameter("0.bias" if bits == 32 else "0.parametrizations.weight.original").flatten()[0] = float("nan")
    with pytest.raises(CompressError, match="layer '0' holds NaN"):
        saved(net, tmp_path, example)


def test_a_compressed_network_is_not_a_target(small):
    net = lc.load(small, ToyNet())
    with pytest.raises(PackedFileError, match="pass a fresh one"):
        lc.load(small, net)
