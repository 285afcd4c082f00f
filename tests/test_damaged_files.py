"""Packed files that are foreign, damaged or cannot be written: a sentence each, and nothing is lost."""

from __future__ import annotations

import copy
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import lightning_compress as lc
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.core.errors import CompressError, PackedFileError
from lightning_compress.core.plan import Plan
from lightning_compress.export import container
from lightning_compress.surgery import measure
from lightning_compress.testing.toys import ToyNet


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Return a packed file of a network with two and four bits."""
    net = ToyNet()
    layers = measure.measure(net, torch.zeros(2, 1, 8, 8)).weighted
    plan = Plan({layer.name: {"weight_bits": 2 + 2 * (i % 2), "act_bits": 4} for i, layer in enumerate(layers)})
    x = torch.randn(4, 1, 8, 8)
    QuantizationAwareTraining(plan).apply(net, x)
    with torch.no_grad():
        net.eval()(x)
    return lc.save(net, tmp_path_factory.mktemp("small") / "net.safetensors")


def test_foreign_missing_and_newer_files_are_told_apart(tmp_path, small):
    with pytest.raises(PackedFileError, match="there is no file"):
        lc.load(tmp_path / "none", ToyNet())
    (tmp_path / "text").write_text("hello")
    with pytest.raises(PackedFileError, match="not a whole safetensors file"):
        lc.load(tmp_path / "text", ToyNet())
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign")
    with pytest.raises(PackedFileError, match=r"not written by lightning_compress\.save"):
        lc.load(tmp_path / "foreign", ToyNet())
    tensors, contents = container.read(small)
    original, container.FORMAT = container.FORMAT, "99"
    container.write(tmp_path / "newer", tensors, contents)
    container.FORMAT = original
    with pytest.raises(PackedFileError, match=r"has format 99, and this version reads \d+; use the version"):
        lc.load(tmp_path / "newer", ToyNet())


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_flipped_bit_goes_unseen(data, small):
    content = bytearray(small.read_bytes())
    at = data.draw(st.integers(0, 8 * len(content) - 1))
    content[at // 8] ^= 1 << (at % 8)
    broken = small.with_name("broken.safetensors")
    broken.write_bytes(content)
    try:
        tensors, contents = container.read(broken)
    except PackedFileError:
        return
    expected, described = container.read(small)  # a flip in what no reader uses
    assert contents == described
    assert all(torch.equal(tensors[k], v) for k, v in expected.items())


@settings(max_examples=50, deadline=None)
@given(share=st.floats(0, 0.999))
def test_a_truncated_file_is_refused(share, small):
    content = small.read_bytes()
    short = small.with_name("short.safetensors")
    short.write_bytes(content[: int(share * len(content))])
    with pytest.raises(PackedFileError, match="truncated"):
        lc.load(short, ToyNet())


def test_what_cannot_be_written_leaves_the_old_file(small, monkeypatch, tmp_path):
    target = tmp_path / "net.safetensors"
    target.write_bytes(b"old")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PackedFileError, match="No space left on device; nothing was changed"):
        lc.save(lc.load(small, ToyNet()), target)
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["net.safetensors"]
    monkeypatch.undo()
    with pytest.raises(PackedFileError, match="cannot write"):
        lc.save(lc.load(small, ToyNet()), tmp_path / "missing" / "net.safetensors")


def test_a_file_names_no_code_to_run(small, tmp_path):
    tensors, contents = container.read(small)
    evil = copy.deepcopy(contents)
    evil["kinds"][0] = {"kind": "os.system", "command": "true"}
    container.write(tmp_path / "evil", tensors, evil)
    with pytest.raises(CompressError, match=r"activation quantizer 'os\.system' is not known"):
        lc.load(tmp_path / "evil", ToyNet())


def test_the_same_network_gives_the_same_bytes(small, tmp_path):
    net = lc.load(small, ToyNet())
    assert len({lc.save(net, tmp_path / str(i)).read_bytes() for i in range(20)}) == 1


BAD_JSON = {
    "nan": '{"names": NaN}', "infinity": '{"names": [1e999]}', "twice": '{"names": 1, "names": 2}',
    "large": '{"names": 9007199254740993}', "none": "{", "deep": "[" * 100_000,
}  # fmt: skip


@pytest.mark.parametrize("text", BAD_JSON.values(), ids=BAD_JSON)
def test_a_description_that_breaks_the_rules_of_json_is_refused(text, small, tmp_path, monkeypatch):
    tensors, contents = container.read(small)
    monkeypatch.setattr(container.json, "dumps", lambda *_, **__: text)
    with monkeypatch.context() as patch:
        patch.setattr(container, "_ordered", lambda content: content)
        container.write(tmp_path / "bad", tensors, contents)
    with pytest.raises(PackedFileError, match=r"is damaged, or was made for another network .* copy it again"):
        lc.load(tmp_path / "bad", ToyNet())


def test_a_description_that_would_grow_beyond_the_network_is_refused(small, tmp_path):
    tensors, contents = container.read(small)
    container.write(tmp_path / "bomb", tensors, {**contents, "names": "0" * 20_000_000})
    with pytest.raises(PackedFileError, match=r"longer than the .* bytes that such"):
        lc.load(tmp_path / "bomb", ToyNet())
