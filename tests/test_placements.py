"""Test where activation quantizers stand: what each placement quantizes, on networks whose answer is known by hand."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

import lightning_compress.conf
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.core.errors import CompressError
from lightning_compress.quantization.placements.skips import Skips
from lightning_compress.quantization.placements.tensors import Tensors
from lightning_compress.quantization.quantizers.activation import ActivationQuantizer
from lightning_compress.surgery import measure, transform_specs, transforms
from lightning_compress.vision.models.resnet_cifar import resnet8

FILES = sorted((Path(lightning_compress.conf.__file__).parent / "compress" / "placement").glob("*.yaml"))


def example() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def quantized(net: nn.Module, placement, **bits: int) -> nn.Module:
    """``net`` with 8 bits everywhere, or as ``bits`` says for layers whose dots are written as ``__``."""
    layers = [layer.name for layer in measure.measure(net, example()).weighted]
    own = {name.replace("__", "."): value for name, value in bits.items()}
    plan = {name: {"weight_bits": 8, "act_bits": own.get(name, 8)} for name in layers}
    QuantizationAwareTraining(plan, placement=placement).apply(net, example())
    return net


def slots(net: nn.Module) -> dict[str, int]:
    """``module/slot`` -> a number that is equal for places of one quantizer."""
    found, seen = {}, {}
    for name, layer in transforms.transformed(net).items():
        for slot in (transforms.INPUT, transforms.OUTPUT):
            if slot in layer._modules:
                found[f"{name}/{slot[:2]}"] = seen.setdefault(id(layer._modules[slot]), len(seen))
    return found


class ConcatNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.pool, self.c, self.fc = nn.MaxPool2d(2), nn.Conv2d(8, 4, 3), nn.Linear(4, 2)
        self.mean = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.cat([F.relu(self.a(x)), self.b(x)], 1))
        return self.fc(self.mean(F.relu(self.c(x))).flatten(1))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_checkpoint_describes_the_shared_quantizers_and_makes_them_again(file):
    placement = instantiate(OmegaConf.load(file))
    net = quantized(resnet8(), placement)
    net(example())
    for module in net.modules():
        if isinstance(module, ActivationQuantizer):
            module.settle()
    other = resnet8()
    transform_specs.rebuild(other, transform_specs.describe(net))
    other.load_state_dict(net.state_dict())
    assert slots(other) == slots(net)
    assert torch.equal(other.eval()(example()), net.eval()(example()))
    assert slots(copy.deepcopy(net)) == slots(net)


def test_layer_inputs_are_quantized_each_on_its_own():
    found = slots(quantized(resnet8(), instantiate(OmegaConf.load(FILES[0]))))
    assert len(set(found.values())) == len(found) == 10


def test_tensors_share_one_quantizer_among_readers_and_quantize_sums_and_the_output():
    found = slots(quantized(resnet8(), Tensors()))
    assert found["layer2.0.conv1/in"] == found["layer2.0.shortcut.0/in"]
    assert found["relu/ou"] == found["layer1.0.conv1/in"]  # the skip of the first block reads it too
    assert found["layer3.0/ou"] == found["fc/in"]  # average pooling keeps the grid
    assert {"layer1.0.bn2/ou", "layer2.0.bn2/ou", "layer2.0.shortcut.1/ou", "fc/ou"} <= set(found)
    # image, stem, 3 inner tensors, 3 bn2, 2 shortcuts, 3 block outputs, logits
    assert len(set(found.values())) == 14


def test_skips_leave_the_convolution_before_a_sum_unquantized():
    found = slots(quantized(resnet8(), Skips()))
    assert "layer1.0.bn2/ou" not in found
    assert ("layer2.0.bn2/ou" in found) + ("layer2.0.shortcut.1/ou" in found) == 1
    assert "relu/ou" in found


def test_a_concatenation_has_one_grid_and_a_max_pool_keeps_it():
    found = slots(quantized(ConcatNet(), Tensors()))
    assert found["a/in"] == found["b/in"]
    assert set(found) == {"a/in", "b/in", "c/in", "mean/in", "fc/in", "fc/ou"}
    assert found["mean/in"] == found["fc/in"] != found["c/in"]


def test_readers_of_one_tensor_get_the_largest_of_their_bits():
    net = quantized(resnet8(), Tensors(), layer2__0__conv1=4, layer2__0__shortcut__0=6, layer2__0__conv2=5)
    bits = {
        name: int(layer.input_transform.bits)
        for name, layer in transforms.transformed(net).items()
        if hasattr(layer, "input_transform")
    }
    assert bits["layer2.0.conv1"] == bits["layer2.0.shortcut.0"] == 6
    assert bits["layer2.0.conv2"] == 5


def test_weights_of_integer_kernels_have_as_many_levels_below_zero_as_above():
    for placement, low in ((Tensors(), -127), (instantiate(OmegaConf.load(FILES[0])), -128)):
        net = quantized(resnet8(), placement)
        assert {float(transforms.weight_transforms(layer)[0].low) for layer in (net.conv1, net.fc)} == {low}


def test_sums_in_place_behind_a_quantizer_train():
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.fc = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            out = self.a(x)
            out += self.b(x)
            return self.fc(F.relu(out)[:, :, 0, 0])

    net = quantized(InPlace(), Tensors())
    net(example()).sum().backward()
    assert net.a.parametrizations.weight.original.grad.abs().sum() > 0


def test_a_tensor_that_no_hook_reaches_is_named():
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.a(x))
            return x + self.b(x)

    with pytest.raises(CompressError, match=r"the tensor that 'relu' in module '' returns feeds a sum"):
        quantized(Functional(), Tensors())


class OfInput(nn.Module):
    """A sum with the network's input, which passes a module before."""

    def __init__(self, entry: nn.Module | None) -> None:
        super().__init__()
        self.entry, self.a, self.relu, self.fc = entry, nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x) if self.entry else x
        return self.fc(self.relu(x + self.a(x))).flatten(1)


def test_an_input_that_feeds_a_sum_is_quantized_behind_an_identity():
    with pytest.raises(CompressError, match=r"the input of the network feeds a sum, .* let it pass an nn.Identity\(\)"):
        quantized(OfInput(None), Tensors())
    found = slots(quantized(OfInput(nn.Identity()), Tensors()))
    assert found["entry/ou"] == found["a/in"]
    assert found.keys() == {"entry/ou", "a/in", "a/ou", "fc/in", "fc/ou"}
