"""Heads and streams of ``torch.nn.MultiheadAttention`` are pruned, and what stands in its place computes the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer

import lightning_compress as lc
from lightning_compress.core.costs.activation_bytes import ActivationBytes
from lightning_compress.core.errors import CompressError
from lightning_compress.pruning.criteria.l1 import L1
from lightning_compress.pruning.criteria.taylor import Taylor
from lightning_compress.surgery import measure
from lightning_compress.surgery.thin_attention import ThinAttention

TOKENS = torch.randint(20, (2, 7), generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Encoder(nn.Module):
    """torch's own encoder, which in evaluation would rather read weights than call the layers that have them."""

    def __init__(self, batch_first: bool = True, norm_first: bool = True) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=batch_first, norm_first=norm_first)
        self.embed, self.head, self.batch_first = nn.Embedding(20, 16), nn.Linear(16, 3), batch_first
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, tokens):
        x = self.encoder(self.embed(tokens if self.batch_first else tokens.T))
        return self.head(x.mean(1 if self.batch_first else 0))


class Decoder(nn.Module):
    """Attention from one stream to another."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(3, 16), nn.Linear(3, 16), nn.Linear(16, 2)
        self.layer = nn.TransformerDecoderLayer(16, 4, 32, batch_first=True)

    def forward(self, x):
        return self.head(self.layer(self.first(x), self.second(x.flip(1))))


NETS = {
    "encoder": (Encoder, TOKENS, 0.26),
    "batch_second": (lambda: Encoder(False, False), TOKENS, 0.26),
    "decoder": (Decoder, torch.randn(2, 5, 3), 0.3),
    "vit": (lambda: VisionTransformer(32, 8, 2, 4, 48, 64, num_classes=5), IMAGES, 0.31),
}


@pytest.mark.parametrize("name", NETS)
def test_heads_and_stream_are_removed_and_come_back(name, tmp_path):
    torch.manual_seed(0)
    make, example, most = NETS[name]
    net, callback = make().eval(), lc.ChannelPruning()
    profile = measure.measure(net, example)
    plan = lc.Plan({choice.layer: {choice.knob: 0.5} for choice in callback.choices(net, profile, example)})
    resolved = callback.resolve(plan, net, profile, example)
    assert any(layer.endswith("in_proj_weight") for layer in resolved.layers)
    callback.with_plan(plan).apply(net, example)
    found, memory = measure.measure(net, example), ActivationBytes()
    assert found == callback.predict(resolved, profile)
    assert memory(found) == memory(callback.predict(resolved, profile)) < memory(profile)
    assert found.macs < most * profile.macs
    lc.save(net, tmp_path / "a.safetensors", example_input=example)
    loaded = lc.load(tmp_path / "a.safetensors", make()).eval()
    torch.testing.assert_close(loaded(example), net(example))
    heads = [module.num_heads for module in loaded.modules() if isinstance(module, ThinAttention)]
    assert len(heads) >= 2
    assert set(heads) == {2}


def test_a_head_that_is_removed_is_one_that_gives_zeros():
    torch.manual_seed(0)
    net, x = nn.Sequential(Encoder()).eval(), TOKENS
    attention = net[0].encoder.layers[0].self_attn
    nn.init.normal_(attention.in_proj_bias)
    with torch.no_grad():
        for part in range(3):  # the weakest head
            attention.in_proj_weight[part * 16 + 4 : part * 16 + 8] *= 0.01
        masked = Encoder().eval()
        masked.load_state_dict(net[0].state_dict())
        masked.encoder.layers[0].self_attn.in_proj_weight[36:40] = 0
        masked.encoder.layers[0].self_attn.in_proj_bias[36:40] = 0
    lc.ChannelPruning({"0.encoder.layers.0.self_attn.in_proj_weight": {"heads": 0.75}}).apply(net, x)
    assert net[0].encoder.layers[0].self_attn.num_heads == 3
    torch.testing.assert_close(net(x), masked(x))


@pytest.mark.parametrize("criterion", [L1(), Taylor()])
def test_criteria_score_heads(criterion):
    torch.manual_seed(0)
    net = Encoder()
    net(TOKENS).square().sum().backward()
    plan = {f"encoder.layers.{i}.self_attn.in_proj_weight": {"heads": 0.5} for i in range(2)}
    lc.ChannelPruning(plan, criterion).apply(net, TOKENS)
    assert [layer.self_attn.num_heads for layer in net.encoder.layers] == [2, 2]


def test_thin_attention_is_quantized_saved_and_loaded(tmp_path):
    torch.manual_seed(0)
    net = Encoder().eval()
    lc.ChannelPruning({"encoder.layers.0.self_attn.in_proj_weight": {"heads": 0.5}}).apply(net, TOKENS)
    lc.QuantizationAwareTraining({"encoder.layers.0.self_attn": {"weight_bits": 4}}).apply(net, TOKENS)
    file = lc.save(net, tmp_path / "a.safetensors", example_input=TOKENS)
    torch.testing.assert_close(lc.load(file, Encoder()).eval()(TOKENS), net(TOKENS))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.filterwarnings("ignore:Support for mismatched")
def test_it_computes_what_torch_does(batch_first, bias):
    torch.manual_seed(0)
    old = nn.MultiheadAttention(12, 4, bias=bias, batch_first=batch_first).eval()
    if bias:
        nn.init.normal_(old.in_proj_bias)
    new = ThinAttention.like(old)
    query, key = torch.randn(2, 5, 12), torch.randn(2, 7, 12)
    if not batch_first:
        query, key = query.transpose(0, 1), key.transpose(0, 1)
    unseen, added = torch.zeros(2, 7, dtype=torch.bool), torch.randn(5, 7)
    unseen[0, 5:] = True
    for options in (
        {}, {"key_padding_mask": unseen}, {"attn_mask": added}, {"attn_mask": added > 1}, {"need_weights": False},
        {"attn_mask": torch.randn(8, 5, 7)}, {"attn_mask": added, "key_padding_mask": unseen},
        {"average_attn_weights": False}, {"need_weights": False, "attn_mask": added},
    ):  # fmt: skip
        for value in (key, 2 * key):
            torch.testing.assert_close(new(query, key, value, **options), old(query, key, value, **options))
    torch.testing.assert_close(new(query, query, query), old(query, query, query))
    torch.testing.assert_close(new(query[0], key[0], key[0]), old(query[0], key[0], key[0]))


def test_attention_of_another_form_keeps_its_heads():
    with pytest.raises(CompressError, match="expected a MultiheadAttention of one matrix"):
        ThinAttention.like(nn.MultiheadAttention(12, 4, kdim=6))


@torch.no_grad()
def test_hooks_of_attention_go_on_to_what_takes_its_place():
    net, seen = Decoder().eval(), []
    net.layer.self_attn.register_forward_hook(lambda layer, _args, _output: seen.append(type(layer)))
    lc.ChannelPruning({"layer.self_attn.in_proj_weight": {"heads": 0.5}}).apply(net, NETS["decoder"][1])
    seen.clear()
    net(NETS["decoder"][1])
    assert seen == [ThinAttention]
