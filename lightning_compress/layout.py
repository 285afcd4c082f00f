"""How many bytes each part of a packed file takes: the arithmetic that ``PackedBytes`` predicts and ``pack`` writes.

A packed file holds two tensors: ``codes`` (uint8), the quantised weights of all layers, each layer starting on a byte;
and ``floats`` (fp32), everything else a layer needs, in the order of :func:`float_counts`. One header entry for each
would cost more than the weights of a small layer.
"""

from __future__ import annotations

from lightning_compress.profile import LayerProfile, Profile

FLOAT_BYTES = 4
# The header is compressed text, so its size cannot be known by arithmetic. These bound it for networks of 1 to 240
# layers, each with its own width, ratio and bits (tests/test_layout.py): in all, for a layer with a weight, for its
# input quantiser, for another layer, and for a tensor under its own name.
HEADER_BYTES = 700
WEIGHT_ENTRY_BYTES = 15
INPUT_ENTRY_BYTES = 12
OTHER_ENTRY_BYTES = 5
TENSOR_ENTRY_BYTES = 120


def code_bytes(layer: LayerProfile) -> int:
    """Bytes of the packed codes of a layer: its weights x bits, rounded up to a byte; 0 when not quantised."""
    return -(-layer.weights * layer.weight_bits // 8) if layer.weight_bits < 32 else 0


def float_counts(layer: LayerProfile) -> dict[str, int]:
    """Number of fp32 values of each part of a layer, in the order in which they are stored."""
    return {
        "weight": layer.weights if layer.weight_bits == 32 else 0,
        "weight_scale": layer.weight_scales,
        "act_scale": layer.act_scales,
        "extras": layer.extras * layer.out_channels,
        "buffers": layer.buffers * layer.out_channels if layer.kind != "table" else 0,
    }


def entry_bytes(layer: LayerProfile) -> int:
    """Bytes that a layer takes in the header, at most; of a table, with its tensor."""
    if layer.kind in ("conv", "linear"):
        return WEIGHT_ENTRY_BYTES + (INPUT_ENTRY_BYTES if layer.act_scales else 0)
    return OTHER_ENTRY_BYTES if layer.kind != "table" else TENSOR_ENTRY_BYTES + FLOAT_BYTES * layer.buffers


def packed_bytes(profile: Profile) -> int:
    """Bytes of the packed file of a network, batch norms folded: an upper bound within 2 % from 20 kB on."""
    with_norm = {layer.follows for layer in profile if layer.follows}
    total = HEADER_BYTES
    for layer in profile:
        total += entry_bytes(layer)
        if layer.follows:
            continue
        numbers = sum(float_counts(layer).values())
        if layer.name in with_norm:  # what LayerProfile.with_norm adds; searches ask too often to build it
            numbers += (1 - layer.extras) * layer.out_channels
            numbers += layer.out_channels - layer.weight_scales if layer.weight_scales else 0
        total += code_bytes(layer) + FLOAT_BYTES * numbers
    return total
