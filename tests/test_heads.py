"""Attention heads and embeddings are pruned with all that belongs to them, and a file gives them back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lightning_compress as lc
from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.pipeline.planners.uniform import Uniform
from lightning_compress.surgery import measure
from lightning_compress.surgery.attention import attentions
from lightning_compress.surgery.graph.channels import IN, OUT
from lightning_compress.surgery.graph.trace_channels import trace_channels

TOKENS = torch.randint(20, (2, 5), generator=torch.Generator().manual_seed(0))


class Fused(nn.Module):
    """One layer for queries, keys and values; forward takes the number of heads from an attribute."""

    def __init__(self, dim: int = 12, heads: int = 4) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.attn_dim = heads, dim // heads, dim
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        qkv = self.qkv(x).reshape(*x.shape[:2], 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        x = nn.functional.scaled_dot_product_attention(*qkv.unbind(0))
        return self.proj(x.transpose(1, 2).reshape(*x.shape[:1], -1, self.attn_dim))


class Separate(nn.Module):
    """A layer for each, and the layer that reads the heads beside the module, as in BERT."""

    def __init__(self, dim: int = 12, heads: int = 4) -> None:
        super().__init__()
        self.num_attention_heads, self.attention_head_size = heads, dim // heads
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))

    def forward(self, x):
        parts = (layer(x).unflatten(2, (-1, self.attention_head_size)) for layer in (self.query, self.key, self.value))
        return (
            nn.functional.scaled_dot_product_attention(*(part.transpose(1, 2) for part in parts))
            .transpose(1, 2)
            .flatten(2)
        )


class Reader(nn.Module):
    """Embedded tokens, a residual block of attention, and a head."""

    def __init__(self, separate: bool) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(20, 12), nn.LayerNorm(12)
        self.attention = nn.Sequential(Separate(), nn.Linear(12, 12)) if separate else nn.Sequential(Fused())
        self.head = nn.Linear(12, 3)

    def forward(self, tokens):
        x = self.embed(tokens)
        return self.head((x + self.attention(self.norm(x))).mean(1))


@pytest.mark.parametrize(("separate", "leader"), [(False, "attention.0.qkv"), (True, "attention.0.query")])
def test_heads_and_embedding_are_removed_and_come_back(separate, leader, tmp_path):
    torch.manual_seed(0)
    net = Reader(separate).eval()
    callback = lc.ChannelPruning()
    profile = measure.measure(net, TOKENS)
    choices = {choice.layer: len(choice.values) for choice in callback.choices(net, profile, TOKENS)}
    stream = "attention.1" if separate else "attention.0.proj"
    assert choices.keys() == {leader, stream}
    plan = lc.Plan({leader: {"heads": 0.25}, stream: {"channels": 0.5}})
    callback.with_plan(plan).apply(net, TOKENS)
    (found,) = attentions(net)
    assert (found.heads, found.size, found.width) == (1, 3, 3)
    assert net.embed.weight.shape == (20, net.embed.embedding_dim) == (20, 6)
    assert measure.measure(net, TOKENS) == callback.predict(
        callback.resolve(plan, Reader(separate), profile, TOKENS), profile
    )
    lc.save(net, tmp_path / "a.safetensors", example_input=TOKENS)
    loaded = lc.load(tmp_path / "a.safetensors", Reader(separate))
    torch.testing.assert_close(loaded(TOKENS), net(TOKENS))
    assert next(attentions(loaded)).heads == 1


def test_the_number_of_heads_is_one_that_the_kept_heads_give():
    torch.manual_seed(0)
    net, x = Fused().eval(), torch.randn(2, 5, 12)
    outer = nn.Sequential(net, nn.Linear(12, 2))
    lost = torch.arange(12).view(4, 3)[[1, 3]].flatten()
    masked = nn.Sequential(Fused(), nn.Linear(12, 2))
    masked.load_state_dict(outer.state_dict())
    for part in range(3):  # values of zero reach the output as nothing
        masked[0].qkv.weight.data[part * 12 + lost] = 0
        masked[0].qkv.bias.data[part * 12 + lost] = 0
    profile = measure.measure(outer, x)
    callback = lc.ChannelPruning({"0.qkv": {"heads": 0.5}})
    with torch.no_grad():  # the heads with the largest weights stay
        net.qkv.weight.view(3, 4, 3, 12)[:, [1, 3]] *= 0.01
    callback.apply(outer, x)
    assert profile["0.qkv"].out_channels == 36
    torch.testing.assert_close(outer(x), masked.eval()(x))


def test_heads_are_a_knob_of_their_own():
    net = Reader(separate=False)
    profile = measure.measure(net, TOKENS)
    choices = lc.ChannelPruning().choices(net, profile, TOKENS)
    assert {choice.layer: choice.knob for choice in choices} == {
        "attention.0.qkv": "heads", "attention.0.proj": "channels",
    }  # fmt: skip
    plan = lc.uniform_plan(net, TOKENS, channels=0.5)
    assert plan.layers == {"attention.0.proj": {"channels": 0.5}}


@pytest.mark.parametrize(
    ("layer", "knobs", "message"),
    [
        ("attention.0.qkv", {"channels": 0.5}, "'attention.0.qkv' heads are removed, got channels 0.5; name its ratio"),
        ("attention.0.proj", {"heads": 0.5}, "'attention.0.proj' channels are removed, got heads 0.5; name its ratio"),
        ("attention.0.qkv", {"heads": 0}, "heads of layer 'attention.0.qkv' must be above 0 and at most 1, got 0"),
    ],
)
def test_a_ratio_under_the_other_name_is_refused(layer, knobs, message):
    with pytest.raises(lc.CompressError, match=message):
        lc.ChannelPruning({layer: knobs}).apply(Reader(separate=False), TOKENS)


def test_no_channel_is_in_two_groups():
    net = Reader(separate=True)
    net.attention[0].query = nn.Identity()  # as after its removal: the stream is the queries
    graph = trace_channels(net, measure.measure(net, TOKENS), TOKENS)
    for side in (IN, OUT):
        seen = [
            (member.layer, position)
            for group in graph.groups.values()
            for member in group.members
            if member.side == side
            for position in member.index.flatten().tolist()
        ]
        assert len(seen) == len(set(seen)) > 0


PLAIN = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))


@pytest.mark.parametrize(
    ("net", "example", "found"),
    [(Reader(separate=False), TOKENS, {"heads", "channels"}), (PLAIN, torch.randn(2, 3, 8, 8), {"channels"})],
)
def test_uniform_numbers_prune_heads_where_there_are_some(net, example, found):
    composition = Composition([lc.ChannelPruning()], net, example)
    assert Uniform({"channels": 0.5, "heads": 0.5}).unmentioned(composition).plan.knobs == found


def test_uniform_numbers_that_fit_no_layer_are_refused():
    composition = Composition([lc.ChannelPruning()], PLAIN, torch.randn(2, 3, 8, 8))
    with pytest.raises(lc.CompressError, match=r"no layer has the knob 'heads'.*known: \['channels'\]"):
        Uniform({"heads": 0.5}).unmentioned(composition)
