"""Weights of embeddings, recurrent layers, attention and transposed convolutions are quantized, packed and counted."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning import LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_compress as lc
from lightning_compress.callbacks.base.output_errors import layer_errors
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.core.costs.bit_operations import BitOperations
from lightning_compress.core.costs.packed_bytes import PackedBytes
from lightning_compress.core.errors import CompressError
from lightning_compress.core.plan import Plan
from lightning_compress.core.space import Choice
from lightning_compress.export import container
from lightning_compress.quantization.quantizers.codebook import Codebook
from lightning_compress.quantization.quantizers.lsq import LSQ
from lightning_compress.quantization.quantizers.min_max import MinMax
from lightning_compress.surgery.measure import measure
from lightning_compress.surgery.row_layout import swapped
from lightning_compress.surgery.structure import applied_structure
from lightning_compress.testing.callbacks import assert_equal_states, trainer


class First(nn.Module):
    """The first output of a layer that returns several."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


class SelfAttention(nn.Module):
    """Attention over a sequence, whose keys and values may be narrower than its queries."""

    def __init__(self, keys: int = 8) -> None:
        super().__init__()
        self.keys, self.attention = keys, nn.MultiheadAttention(8, 2, batch_first=True, kdim=keys, vdim=keys)

    def forward(self, x):
        return self.attention(x, x[..., : self.keys], x[..., : self.keys])[0]


class Steps(nn.Module):
    """A recurrent cell, step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(8, 6)

    def forward(self, x):
        state = x.new_zeros(len(x), 6)
        for step in x.unbind(1):
            state = self.cell(step, state)
        return state


SEQUENCE, WORDS, IMAGE = torch.randn(2, 5, 8), torch.randint(1, 20, (2, 5)), torch.randn(2, 4, 5, 5)
NETS = {
    "embedding": (lambda: nn.Embedding(20, 8, padding_idx=0), WORDS),
    "bag": (lambda: nn.EmbeddingBag(20, 8), WORDS),
    "lstm": (lambda: First(nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True)), SEQUENCE),
    "projected lstm": (lambda: First(nn.LSTM(8, 6, proj_size=3, batch_first=True)), SEQUENCE),
    "gru": (lambda: First(nn.GRU(8, 6, bias=False, batch_first=True)), SEQUENCE),
    "cell": (Steps, SEQUENCE),
    "attention": (SelfAttention, SEQUENCE),
    "cross attention": (lambda: SelfAttention(4), SEQUENCE),
    "encoder": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), SEQUENCE),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 3, 2), nn.BatchNorm2d(6)), IMAGE),
    "groups": (lambda: nn.ConvTranspose2d(4, 6, (2, 3), groups=2, bias=False), IMAGE),
    "transposed 1d": (lambda: nn.ConvTranspose1d(5, 3, 4, 2), torch.randn(2, 5, 8)),
}


def quantized(kind: str, bits: int, quantizer=LSQ, per_channel: bool = True) -> nn.Module:
    """Return a network of a kind in eval mode, all weights of it quantized."""
    torch.manual_seed(0)
    make, example = NETS[kind]
    net = make().eval()
    layers = [layer.name for layer in measure(net, example).quantizable]
    plan = Plan({name: {"weight_bits": bits} for name in layers})
    QuantizationAwareTraining(plan, quantizer, per_channel=per_channel).apply(net, example)
    return net


@pytest.mark.parametrize("kind", NETS)
@settings(max_examples=3, deadline=None)
@given(bits=st.integers(1, 8), quantizer=st.sampled_from([LSQ, MinMax, Codebook]), per_channel=st.booleans())
@torch.no_grad()
def test_codes_have_their_width_and_come_back_bit_equal(tmp_path_factory, kind, bits, quantizer, per_channel):
    net, (make, example) = quantized(kind, bits, quantizer, per_channel), NETS[kind]
    file = lc.save(net, tmp_path_factory.mktemp("net") / "net.safetensors", example)
    profile = applied_structure(net).profile
    assert {layer.weight_bits for layer in profile.quantizable} == {bits}
    codes = sum(-(-layer.weights * bits // 8) for layer in profile.quantizable)
    assert container.read(file)[0]["codes"].numel() == codes
    assert file.stat().st_size <= PackedBytes()(profile)
    loaded = lc.load(file, make())
    assert file.read_bytes() == lc.save(loaded, file.with_name("again.safetensors"), example).read_bytes()
    expected = dict(_weights(net))
    for dequantize in (loaded, lc.load(file, make(), dequantize=True)):
        for name, weight in _weights(dequantize):
            assert torch.equal(weight, expected[name]), name


def _weights(net: nn.Module):
    for layer in applied_structure(net).profile.quantizable:
        yield layer.name, _tensor(net, layer.name)


def _tensor(net: nn.Module, name: str) -> torch.Tensor:
    owner, _, key = name.rpartition(".")
    found = getattr(net.get_submodule(owner), key) if key else net
    return found.weight if isinstance(found, nn.Module) else found


@pytest.mark.parametrize("kind", NETS)
def test_each_row_has_a_min_max_grid_of_its_own(kind):
    net = quantized(kind, 4, MinMax)
    torch.manual_seed(0)
    dense = NETS[kind][0]()
    for name, found in _weights(net):
        weight = _tensor(dense, name).detach()
        module = dense.get_submodule(name) if name in dict(dense.named_modules()) else None
        groups = module.groups if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d) else 0
        for group, inputs in enumerate(weight.tensor_split(groups) if groups else [weight]):
            rows = inputs.unbind(1) if groups else inputs.unbind(0)
            for number, row in enumerate(rows):
                scale = (row.abs().max() / 7).clamp_min(1e-30)
                mine = found.tensor_split(groups)[group].unbind(1)[number] if groups else found[number]
                torch.testing.assert_close(mine.detach(), (row / scale).round().clamp(-7, 7) * scale)


@settings(max_examples=20, deadline=None)
@given(
    groups=st.integers(1, 3),
    inputs=st.integers(1, 3),
    outputs=st.integers(1, 3),
    size=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_swapped_channels_make_the_transposed_convolution_a_convolution(groups, inputs, outputs, size, seed):
    torch.manual_seed(seed)
    x, weight = torch.randn(1, groups * inputs, 6), torch.randn(groups * inputs, outputs, size)
    swap = swapped(weight, groups)
    assert swap.shape == (groups * outputs, inputs, size)
    assert torch.equal(swapped(swap, groups), weight)
    expected = F.conv_transpose1d(x, weight, groups=groups)
    torch.testing.assert_close(F.conv1d(x, swap.flip(-1), padding=size - 1, groups=groups), expected)


@pytest.mark.parametrize("kind", NETS)
def test_copies_compute_the_same_and_gradients_reach_the_trained_weight(kind):
    net, example = quantized(kind, 3).train(), NETS[kind][1]
    net(example).square().sum().backward()
    assert all(p.grad is not None for name, p in net.named_parameters() if name.endswith(".original"))
    net.eval().to(torch.float32)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        torch.testing.assert_close(other(example), net(example), rtol=0, atol=0)


def test_multiplications_are_counted():
    lstm = measure(NETS["lstm"][0](), SEQUENCE)
    assert lstm.macs == 5 * sum(24 * (width + 6) for width in (8, 8, 12, 12))
    assert measure(NETS["attention"][0](), SEQUENCE).macs == 5 * (3 * 8 * 8 + 8 * 8)
    assert measure(NETS["cross attention"][0](), SEQUENCE).macs == 5 * (8 * 8 + 2 * 4 * 8 + 8 * 8)
    assert measure(NETS["groups"][0](), IMAGE).macs == 25 * 4 * 3 * 6
    assert measure(NETS["embedding"][0](), WORDS).macs == 0
    net = quantized("cell", 4)
    assert BitOperations()(applied_structure(net).profile) == 5 * 18 * (8 + 6) * 4 * 32


class EveryKind(LightningModule):
    """An embedding, a recurrent layer, attention and a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Embedding(20, 8), nn.LSTM(8, 8, batch_first=True)
        self.attention, self.up = SelfAttention(), nn.ConvTranspose1d(8, 4, 2, 2, groups=2)
        self.example_input_array = WORDS

    def forward(self, x):
        return self.up(self.attention(self.lstm(self.embed(x))[0]).transpose(1, 2)).mean(-1)

    def training_step(self, batch, _index):
        return F.cross_entropy(self(batch[0]), batch[1])

    validation_step = training_step

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.01)


PLAN = {
    "embed": {"weight_bits": 2},
    "lstm": {"weight_bits": 3},
    "lstm.weight_hh_l0": {"weight_bits": 5},
    "attention.attention": {"weight_bits": 4},
    "attention.attention.out_proj": {"weight_bits": 4},
    "up": {"weight_bits": 4, "act_bits": 8},
}


def _fit(epochs: int, folder=None, checkpoint=None) -> EveryKind:
    torch.manual_seed(0)
    module, words = EveryKind(), torch.arange(160).view(32, 5) % 20
    data = DataLoader(TensorDataset(words, words[:, 0] % 4), 8)
    run = trainer(epochs, [QuantizationAwareTraining(PLAN)], enable_checkpointing=False)
    run.fit(module, data, data, ckpt_path=checkpoint)
    assert {id(p) for g in run.optimizers[0].param_groups for p in g["params"]} == {id(p) for p in module.parameters()}
    if folder is not None:
        run.save_checkpoint(folder / "a.ckpt")
    return module


def test_training_resumes_exactly_and_is_packed(tmp_path):
    whole, _ = _fit(2), _fit(1, tmp_path)
    resumed = _fit(2, checkpoint=tmp_path / "a.ckpt")
    assert_equal_states(whole.state_dict(), resumed.state_dict())
    profile = applied_structure(whole).profile
    assert {p.name: p.weight_bits for p in profile.quantizable} == {
        "embed.weight": 2, "lstm.weight_ih_l0": 3, "lstm.weight_hh_l0": 5, "attention.attention.in_proj_weight": 4,
        "attention.attention.out_proj": 4, "up": 4,
    }  # fmt: skip
    file = lc.save(whole.eval(), tmp_path / "net.safetensors", WORDS)
    with torch.no_grad():
        torch.testing.assert_close(lc.load(file, EveryKind())(WORDS), whole(WORDS))


@pytest.mark.parametrize(
    ("make", "plan", "sentence"),
    [
        (EveryKind, {"lstm.weight_ih_l0": {"act_bits": 8}}, "LSTM reads its weight_ih_l0 itself"),
        (EveryKind, {"attention.attention.out_proj": {"act_bits": 8}}, "as attention does"),
        (EveryKind, {"embed.weigth": {"weight_bits": 8}}, "embed.weight"),
        (lambda: nn.Embedding(20, 8, sparse=True), {"weight": {"weight_bits": 8}}, "sparse=False"),
        (lambda: nn.Sequential(nn.Embedding(20, 8, max_norm=1.0)), {"0": {"weight_bits": 8}}, "writes into"),
    ],
)
def test_what_cannot_be_quantized_is_refused_in_a_sentence(make, plan, sentence):
    net = make()
    with pytest.raises(CompressError, match=sentence):
        _apply(net, plan)


def _apply(net: nn.Module, plan: dict) -> None:
    callback = QuantizationAwareTraining(plan)
    if isinstance(net, LightningModule):
        trainer(1, [callback]).validate(net, DataLoader(TensorDataset(WORDS, WORDS[:, 0] % 4)), verbose=False)
    else:
        callback.apply(net, WORDS)


def test_matrices_of_one_module_share_its_output_error():
    net = NETS["gru"][0]()
    names = [layer.name for layer in measure(net, SEQUENCE).quantizable]
    choices = [Choice(name, "weight_bits", (2, 8)) for name in names]

    def apply(changed, plan):
        QuantizationAwareTraining(plan).apply(changed, SEQUENCE)

    errors = layer_errors(apply, choices, net, SEQUENCE)
    assert errors[0] == errors[1]
    assert errors[0][0] > errors[0][1] > 0


def test_a_network_without_conv_and_linear_layers_has_layers_to_choose_for():
    with pytest.warns(UserWarning, match="no conv and no linear layer"):
        layers = lc.inspect_layers(First(nn.LSTM(4, 6)), torch.randn(3, 2, 4))
    assert "layer.weight_hh_l0" in str(layers)
