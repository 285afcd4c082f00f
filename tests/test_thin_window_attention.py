"""Heads and streams of torchvision's Swin are pruned; what stands in the place of its attention computes the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import swin_transformer as swin

import lightning_compress as lc
from lightning_compress.core.costs.activation_bytes import ActivationBytes
from lightning_compress.core.errors import CompressError
from lightning_compress.surgery import measure
from lightning_compress.surgery.thin_window_attention import ThinCosineAttention, ThinWindowAttention

IMAGES = torch.randn(2, 3, 56, 60, generator=torch.Generator().manual_seed(0))  # sides that windows do not divide
FORMS = {
    "v1": (swin.SwinTransformerBlock, swin.PatchMerging, ThinWindowAttention),
    "v2": (swin.SwinTransformerBlockV2, swin.PatchMergingV2, ThinCosineAttention),
}


def make(form: str = "v1") -> nn.Module:
    block, merging, _ = FORMS[form]
    heads, window = [3, 6], [4, 4]
    net = swin.SwinTransformer([4, 4], 24, [2, 2], heads, window, num_classes=5, block=block, downsample_layer=merging)
    return net.eval()


def halved(net: nn.Module) -> tuple[lc.ChannelPruning, lc.Plan]:
    callback = lc.ChannelPruning()
    choices = callback.choices(net, measure.measure(net, IMAGES), IMAGES)
    return callback, lc.Plan({choice.layer: {choice.knob: 0.5} for choice in choices})


@pytest.mark.parametrize("form", FORMS)
def test_heads_and_stream_are_removed_and_come_back(form, tmp_path):
    torch.manual_seed(0)
    net = make(form)
    profile = measure.measure(net, IMAGES)
    callback, plan = halved(net)
    assert plan.layers["features.1.0.attn.qkv"] == {"heads": 0.5}
    assert {"features.0.0", "features.2.reduction", "features.3.1.mlp.0"} <= plan.layers.keys()
    assert callback.kept_whole(net, IMAGES).keys() == {"head"}
    resolved = callback.resolve(plan, net, profile, IMAGES)
    callback.with_plan(plan).apply(net, IMAGES)
    found, memory = measure.measure(net, IMAGES), ActivationBytes()
    assert found == callback.predict(resolved, profile)
    assert memory(found) == memory(callback.predict(resolved, profile)) < memory(profile)
    assert found.macs < 0.29 * profile.macs
    thin = [module for module in net.modules() if isinstance(module, FORMS[form][2])]
    assert [module.num_heads for module in thin] == [2, 2, 3, 3]
    file = lc.save(net, tmp_path / "a.safetensors", example_input=IMAGES)
    torch.testing.assert_close(lc.load(file, make(form)).eval()(IMAGES), net(IMAGES))
    assert halved(net)[1] == plan  # what is thin can get thinner


@pytest.mark.parametrize("form", FORMS)
def test_macs_of_the_projections_are_counted_in_whole_windows(form):
    net = make(form)
    profile = measure.measure(net, IMAGES)
    tokens = 16 * 16, 8 * 8  # 14 x 15 and 7 x 8 places, in windows of 4 x 4
    for stage, width, count in ((1, 24, tokens[0]), (3, 48, tokens[1])):
        assert profile[f"features.{stage}.0.attn.qkv"].macs == count * 3 * width * width
        assert profile[f"features.{stage}.1.attn.proj"].macs == count * width * width


def test_a_head_that_is_removed_is_one_that_gives_zeros():
    torch.manual_seed(0)
    net, masked = make(), make()
    attention = net.features[1][1].attn
    nn.init.normal_(attention.qkv.bias)
    with torch.no_grad():
        attention.qkv.weight.view(3, 3, 8, 24)[:, 1] *= 0.01  # the second head is the weakest
        masked.load_state_dict(net.state_dict())
        masked.features[1][1].attn.proj.weight[:, 8:16] = 0
    lc.ChannelPruning({"features.1.1.attn.qkv": {"heads": 0.67}}).apply(net, IMAGES)
    assert net.features[1][1].attn.num_heads == 2
    torch.testing.assert_close(net(IMAGES), masked(IMAGES))


@pytest.mark.parametrize("window", [(4, 4), (2, 5), (8, 3)])
@pytest.mark.parametrize("shift", [(0, 0), (1, 2)])
@pytest.mark.parametrize("form", FORMS)
def test_it_computes_what_torchvision_does(form, shift, window):
    torch.manual_seed(0)
    kind = swin.ShiftedWindowAttention if form == "v1" else swin.ShiftedWindowAttentionV2
    old = kind(12, [*window], [*shift], 3)
    for parameter in old.parameters():
        nn.init.normal_(parameter)
    new = FORMS[form][2].like(old)
    assert new.num_heads == 3
    assert new.state_dict().keys() == old.state_dict().keys()
    x = torch.randn(2, 6, 9, 12, requires_grad=True)
    expected, found = old(x), new(x)
    torch.testing.assert_close(found, expected)
    expected.square().sum().backward()
    wanted = [p.grad.clone() for p in (x, *old.parameters())]
    for parameter in (x, *old.parameters()):
        parameter.grad = None
    found.square().sum().backward()
    for ours, theirs in zip((x, *new.parameters()), wanted, strict=True):
        torch.testing.assert_close(ours.grad, theirs, rtol=1e-3, atol=1e-3)


def test_thin_attention_is_trained_in_few_bits_saved_and_loaded(tmp_path):
    torch.manual_seed(0)
    net = make()
    lc.ChannelPruning({"features.1.0.attn.qkv": {"heads": 0.5}}).apply(net, IMAGES)
    plan = {f"features.{stage}.0.attn.{key}": {"weight_bits": 4} for stage in (1, 3) for key in ("qkv", "proj")}
    lc.QuantizationAwareTraining(plan).apply(net, IMAGES)
    file = lc.save(net, tmp_path / "a.safetensors", example_input=IMAGES)
    torch.testing.assert_close(lc.load(file, make()).eval()(IMAGES), net(IMAGES))


def test_other_modules_are_refused():
    with pytest.raises(CompressError, match="expected torchvision's attention over shifted windows"):
        ThinWindowAttention.like(nn.Linear(3, 3))
    with pytest.raises(CompressError, match="expected torchvision's attention over shifted windows"):
        ThinWindowAttention.like(swin.ShiftedWindowAttentionV2(12, [4, 4], [0, 0], 3))
