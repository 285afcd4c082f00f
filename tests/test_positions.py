"""Positions of kept weights in packed files."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_compress.core import packed_size
from lightning_compress.core.profile import LayerProfile
from lightning_compress.export.positions import read_positions, write_positions


@given(units=st.integers(1, 3000), seed=st.integers(0, 9), share=st.floats(0, 1))
@settings(deadline=None, max_examples=200)
def test_positions_come_back_and_take_the_predicted_bytes(units, seed, share):
    kept = np.random.default_rng(seed).random(units) < share
    layer = LayerProfile("a", "linear", units, 1, density=kept.sum() / units, mask_unit=1)
    size = packed_size.mask_bytes(layer)
    stream = write_positions(kept, size)
    assert len(stream) == size <= -(-units // 8)
    np.testing.assert_array_equal(read_positions(stream, units, int(kept.sum())), kept)


@pytest.mark.parametrize("share", [1e-5, 1e-3, 0.05, 0.5, 0.95])
@pytest.mark.parametrize("clustered", [False, True])
def test_positions_of_a_million_are_near_the_entropy_whatever_the_mask(share, clustered):
    units = 1_000_000
    kept = np.arange(units) < share * units
    if not clustered:
        np.random.default_rng(0).shuffle(kept)
    count = int(kept.sum())
    size = packed_size.entropy_bytes(units, count)
    assert len(write_positions(kept, size)) == size
    p = count / units
    entropy = -units * (p * np.log2(p) + (1 - p) * np.log2(1 - p)) / 8
    assert size <= 1.001 * entropy + 40
