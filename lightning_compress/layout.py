"""How many bytes each part of a packed file takes: the arithmetic that ``PackedBytes`` predicts and ``pack`` writes.

A packed file holds two tensors: ``codes`` (uint8), the quantised weights of all layers, each layer starting on a byte;
and ``floats`` (fp32), everything else a layer needs, in the order of :func:`float_counts`. One header entry for each
would cost more than the weights of a small layer.
"""

from __future__ import annotations

from lightning_compress.profile import LayerProfile, Profile

FLOAT_BYTES = 4
# The header is compressed, so its size cannot be known by arithmetic; these bound it closely (tests/test_pack.py).
HEADER_BYTES = 680
LAYER_HEADER_BYTES = 19


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
        "buffers": layer.buffers * layer.out_channels,
    }


def packed_bytes(profile: Profile) -> int:
    """Bytes of the packed file of a network, batch norms folded."""
    total = HEADER_BYTES + LAYER_HEADER_BYTES * len(profile)
    for layer in profile.folded():
        total += code_bytes(layer) + FLOAT_BYTES * sum(float_counts(layer).values())
    return total
