"""The costs' contract, collected from conf/, and closed forms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

import lightning_compress.conf
from lightning_compress.core.costs.bit_operations import BitOperations
from lightning_compress.core.costs.macs import MACs
from lightning_compress.core.costs.packed_bytes import PackedBytes
from lightning_compress.core.costs.parameters import Parameters
from lightning_compress.core.costs.weight_bits import WeightBits
from lightning_compress.core.packed_size import HEADER_BYTES, OTHER_ENTRY_BYTES, WEIGHT_ENTRY_BYTES
from lightning_compress.testing.costs import CONV, LINEAR, NORM, CostContract, profile

FILES = sorted((Path(lightning_compress.conf.__file__).parent / "compress" / "cost").glob("*.yaml"))


class TestContract(CostContract):
    @pytest.fixture(params=FILES, ids=lambda file: file.stem)
    def cost(self, request):
        return instantiate(OmegaConf.load(request.param))


def test_closed_forms():
    net = profile(CONV, NORM, LINEAR)
    assert MACs()(net) == 3 * 8 * 9 * 64 + 80
    assert Parameters()(net) == 3 * 8 * 9 + 16 + 80 + 10
    assert WeightBits()(net) == 32 * (3 * 8 * 9 + 80)
    assert BitOperations()(net) == 32 * 32 * (3 * 8 * 9 * 64 + 80)
    # the norm is folded: its 4 x 8 numbers become 8 biases
    header = HEADER_BYTES + 2 * WEIGHT_ENTRY_BYTES + OTHER_ENTRY_BYTES
    assert PackedBytes()(net) == header + 4 * (3 * 8 * 9 + 8 + 80 + 10)


def test_three_bit_codes_end_on_a_byte():
    odd = replace(LINEAR, in_channels=3, out_channels=1, weight_bits=3, weight_scales=1)
    assert PackedBytes()(profile(odd)) == HEADER_BYTES + WEIGHT_ENTRY_BYTES + 2 + 4 * (1 + 1)


def test_zero_weights_do_no_work():
    assert MACs()(profile(replace(LINEAR, density=0.5))) == 40
    assert WeightBits()(profile(replace(LINEAR, density=0.25))) == 32 * 20
