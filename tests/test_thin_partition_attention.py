"""Heads, streams and MBConvs of torchvision's MaxViT are pruned; what replaces its attention computes the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import maxvit

import lightning_compress as lc
from lightning_compress.core.costs.activation_bytes import ActivationBytes
from lightning_compress.core.errors import CompressError
from lightning_compress.surgery import measure
from lightning_compress.surgery.thin_partition_attention import ThinPartitionAttention

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def make() -> nn.Module:
    """Return a MaxViT of two blocks, windows of 2 x 2 and heads of 8."""
    return maxvit.MaxVit((32, 32), 16, 2, [16, 32], [1, 1], 8, 0.0, num_classes=5).eval()


def halved(net: nn.Module) -> tuple[lc.ChannelPruning, lc.Plan]:
    callback = lc.ChannelPruning()
    choices = callback.choices(net, measure.measure(net, IMAGES), IMAGES)
    return callback, lc.Plan({choice.layer: {choice.knob: 0.5} for choice in choices})


def test_all_is_removed_and_comes_back(tmp_path):
    torch.manual_seed(0)
    net = make()
    profile = measure.measure(net, IMAGES)
    callback, plan = halved(net)
    attention = "blocks.1.layers.0.layers.window_attention.attn_layer.1"
    assert plan.layers[f"{attention}.to_qkv"] == {"heads": 0.5}
    assert {"stem.0.0", "blocks.0.layers.0.layers.MBconv.layers.conv_a.0"} <= plan.layers.keys()
    assert callback.kept_whole(net, IMAGES).keys() == {"classifier.5"}
    resolved = callback.resolve(plan, net, profile, IMAGES)
    callback.with_plan(plan).apply(net, IMAGES)
    found, memory = measure.measure(net, IMAGES), ActivationBytes()
    predicted = callback.predict(resolved, profile)
    assert found == predicted
    assert memory(found) <= memory(predicted) < memory(profile)
    assert found.macs < 0.3 * profile.macs
    thin = [module for module in net.modules() if isinstance(module, ThinPartitionAttention)]
    assert [module.num_heads for module in thin] == [1, 1, 2, 2]
    file = lc.save(net, tmp_path / "a.safetensors", example_input=IMAGES)
    torch.testing.assert_close(lc.load(file, make()).eval()(IMAGES), net(IMAGES))
    assert halved(net)[1].layers.keys() < plan.layers.keys()  # what is thin can get thinner, down to one head


def test_a_head_that_is_removed_is_one_that_gives_zeros():
    torch.manual_seed(0)
    net, masked, name = make(), make(), "blocks.1.layers.0.layers.grid_attention.attn_layer.1"
    attention = net.get_submodule(name)
    nn.init.normal_(attention.to_qkv.bias)
    with torch.no_grad():
        attention.to_qkv.weight.view(3, 4, 8, 32)[:, 1] *= 0.01  # the second head is the weakest
        masked.load_state_dict(net.state_dict())
        masked.get_submodule(name).merge.weight[:, 8:16] = 0
    lc.ChannelPruning({f"{name}.to_qkv": {"heads": 0.75}}).apply(net, IMAGES)
    assert net.get_submodule(name).num_heads == 3
    torch.testing.assert_close(net(IMAGES), masked(IMAGES))


def test_it_computes_what_torchvision_does():
    torch.manual_seed(0)
    old = maxvit.RelativePositionalMultiHeadAttention(12, 4, 9)
    for parameter in old.parameters():
        nn.init.normal_(parameter)
    new = ThinPartitionAttention.like(old)
    assert new.num_heads == 3
    assert new.state_dict().keys() == old.state_dict().keys()
    x = torch.randn(2, 5, 9, 12, requires_grad=True)
    expected, found = old(x), new(x)
    torch.testing.assert_close(found, expected)
    wanted = torch.autograd.grad(expected.square().sum(), (x, *old.parameters()))
    ours = torch.autograd.grad(found.square().sum(), (x, *new.parameters()))
    torch.testing.assert_close(ours, wanted, rtol=1e-3, atol=1e-3)


def test_thin_attention_is_trained_in_few_bits_saved_and_loaded(tmp_path):
    torch.manual_seed(0)
    net, name = make(), "blocks.0.layers.0.layers.window_attention.attn_layer.1"
    lc.ChannelPruning({f"{name}.to_qkv": {"heads": 0.5}}).apply(net, IMAGES)
    plan = {f"{name}.{key}": {"weight_bits": 4, "act_bits": 8} for key in ("to_qkv", "merge")}
    lc.QuantizationAwareTraining(plan).apply(net, IMAGES)
    net(IMAGES)
    file = lc.save(net, tmp_path / "a.safetensors", example_input=IMAGES)
    torch.testing.assert_close(lc.load(file, make()).eval()(IMAGES), net(IMAGES))


def test_other_modules_are_refused():
    with pytest.raises(CompressError, match="expected torchvision's attention over partitions"):
        ThinPartitionAttention.like(nn.Linear(3, 3))
