"""Packing codes: every length and width round-trips bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_compress.quantization.coders import bits as bits_module
from lightning_compress.quantization.coders.bits import pack_bits, unpack_bits


@st.composite
def codes_and_bits(draw):
    bits = draw(st.integers(1, 8))
    codes = draw(st.lists(st.integers(0, 2**bits - 1), max_size=70))
    return np.array(codes, dtype=np.uint8), bits


def reference(codes, bits: int) -> bytes:
    """Return the stream as one long number, least significant code first."""
    number = sum(int(code) << (i * bits) for i, code in enumerate(codes))
    return number.to_bytes(-(-len(codes) * bits // 8), "little")


@given(codes_and_bits())
def test_the_stream_is_one_long_little_endian_number(case):
    codes, bits = case
    assert pack_bits(codes, bits).tobytes() == reference(codes, bits)


@given(codes_and_bits())
def test_codes_round_trip(case):
    codes, bits = case
    assert np.array_equal(unpack_bits(pack_bits(codes, bits), bits, len(codes)), codes)


@pytest.mark.parametrize("bits", range(1, 9))
def test_streams_of_several_chunks_round_trip(bits, monkeypatch):
    monkeypatch.setattr(bits_module, "CHUNK", 16)
    codes = np.random.default_rng(0).integers(0, 2**bits, 83, dtype=np.uint8)
    stream = pack_bits(codes, bits)
    assert stream.tobytes() == reference(codes, bits)
    assert np.array_equal(unpack_bits(stream, bits, 83), codes)
