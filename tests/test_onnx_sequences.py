"""Networks of tokens and of time steps as .onnx files: in floating point, with the ids as integers, or a sentence."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.core.errors import CompressError
from lightning_compress.export.onnx.exporter import Onnx
from lightning_compress.export.onnx.qonnx_exporter import Qonnx
from lightning_compress.export.tflite.exporter import TFLite

for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason="the runtime is not installed")

TOKENS = torch.randint(20, (4, 6), generator=torch.Generator().manual_seed(0))
SERIES = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0))


class Reader(nn.Module):
    """Embedded tokens, torch's encoder, and a head."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, 4)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, tokens):
        return self.head(self.encoder(self.embed(tokens)).mean(1))


class Last(nn.Module):
    """The last step of a recurrent layer."""

    def __init__(self, width: int, **options) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 8, batch_first=True, **options), nn.Linear(width, 4)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_ids_of_tokens_stay_integers(dtype, tmp_path):
    torch.manual_seed(0)
    report = Onnx().export(Reader().eval(), tmp_path / "a.onnx", TOKENS.to(dtype))
    assert report.parity is not None
    assert report.parity.max_error < 1e-5
    reason = "operation 'embedding' in module 'embed' has no kernel in this format"
    assert report.notes == (f"by torch's own export, for {reason}",)


@pytest.mark.parametrize(("callback", "largest"), [
    (ChannelPruning({"encoder.layers.0.self_attn.in_proj_weight": {"heads": 0.5}}), 1e-5),
    (QuantizationAwareTraining({name: {"weight_bits": 4} for name in ("embed", "head")}), 1e-5),
    (QuantizationAwareTraining({"head": {"weight_bits": 4, "act_bits": 8}}), 1e-2),  # the file rounds no inputs
])  # fmt: skip
def test_compressed_networks_of_tokens_too(callback, largest, tmp_path):
    torch.manual_seed(0)
    net = Reader().eval()
    callback.apply(net, TOKENS)
    net(TOKENS)
    parity = Onnx().export(net, tmp_path / "a.onnx", TOKENS).parity
    assert parity is not None
    assert parity.max_error < largest


@pytest.mark.parametrize("exporter", [TFLite(), Qonnx()])
def test_formats_without_embeddings_say_so(exporter, tmp_path):
    net = Reader().eval()
    QuantizationAwareTraining({"head": {"weight_bits": 4, "act_bits": 8}}).apply(net, TOKENS)
    net(TOKENS)
    with pytest.raises(CompressError, match="cannot hold this network: operation 'embedding' in module 'embed'"):
        exporter.export(net, tmp_path / "a", TOKENS)


def test_an_operation_that_the_runtime_refuses_is_a_sentence(tmp_path):
    assert Onnx().export(Last(8).eval(), tmp_path / "a.onnx", SERIES).parity.max_error < 1e-5
    with pytest.raises(CompressError, match=r"cannot run the file: .* LSTM node.* deploy the packed file by load"):
        Onnx().export(Last(4, proj_size=4).eval(), tmp_path / "b.onnx", SERIES)
    assert not (tmp_path / "b.onnx").exists()
