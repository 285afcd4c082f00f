"""Bytes of each part of a packed file: what ``PackedBytes`` predicts and ``save`` writes.

A packed file holds two tensors: ``codes`` (uint8), the quantized weights of all layers, each layer starting on a byte;
and ``floats`` (fp32 or bfloat16), everything else a layer needs, in the order of :func:`float_counts`. One header entry
for each would cost more than the weights of a small layer. The codes of a masked layer are those of the kept weights
alone, and their positions come before them.

Positions take ``n H(k / n)`` bits, the entropy of ``k`` of ``n``, from a range coder with the fixed probability k / n:
what gap coding with ideal codes would take, and the same for every mask of that density, so that it can be predicted.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log2

from lightning_compress.core.profile import WITH_WEIGHT, LayerProfile, Profile

LayerBytes = Callable[[LayerProfile], int]

FLOAT_BYTES = 4
# The header is compressed text, so its size cannot be known by arithmetic. These bound it for networks of 1 to 240
# layers, each with its own width, ratio and bits (tests/test_packed_size.py): in all, for a layer with a weight, for
# its input quantizer (also where that serves several places, and those of sums and outputs with it), for its mask, for
# another layer, and for a tensor under its own name.
HEADER_BYTES = 510
WEIGHT_ENTRY_BYTES = 15
INPUT_ENTRY_BYTES = 20
MASK_ENTRY_BYTES = 8
OTHER_ENTRY_BYTES = 5
TENSOR_ENTRY_BYTES = 120


def code_bytes(layer: LayerProfile) -> int:
    """Return bytes of the packed codes of a layer: its stored weights x bits, rounded up; 0 when not quantized."""
    return -(-stored_weights(layer) * layer.weight_bits // 8) if layer.weight_bits < 32 else 0


def has_codes(profile: Profile) -> bool:
    """Return whether any layer is quantized."""
    return any(layer.weight_bits < 32 for layer in profile)


def stored_weights(layer: LayerProfile) -> int:
    """Return how many weights are stored: of a masked layer those that are kept."""
    return layer.nonzeros if is_sparse(layer) else layer.weights


def weight_shape(layer: LayerProfile) -> tuple[int, ...]:
    """Return the shape of a layer's weight: ``(out, in, *kernel)``, with the inputs of one group."""
    return (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel)


def is_sparse(layer: LayerProfile) -> bool:
    """Return whether positions and kept weights are stored, rather than all weights."""
    return bool(layer.mask_unit) and layer.nonzeros < layer.weights


def mask_bytes(layer: LayerProfile) -> int:
    """Return bytes of a layer's positions: as a bitmask or by :func:`entropy_bytes`, whichever is smaller."""
    units, kept = mask_units(layer)
    return min(-(-units // 8), entropy_bytes(units, kept))


def mask_units(layer: LayerProfile) -> tuple[int, int]:
    """Return units of a layer's mask, and how many of them are kept."""
    return layer.weights // layer.mask_unit, layer.nonzeros // layer.mask_unit


def entropy_bits(units: int, kept: int) -> float:
    """Return ``n H(k / n)``: bits that say which ``kept`` of ``units`` are kept, by their density alone."""
    if not 0 < kept < units:
        return 0.0
    share = kept / units
    return -kept * log2(share) - (units - kept) * log2(1 - share)


def entropy_bytes(units: int, kept: int) -> int:
    """Return bytes in which the range coder can write which ``kept`` of ``units`` are kept: whole words of 4 bytes."""
    # The coder rounds probabilities to 24 bits and ends on a word (measured for up to 25 million units).
    return 4 * int(-(-(entropy_bits(units, kept) / 8 + units / 50_000 + 12) // 4))


def float_counts(layer: LayerProfile) -> dict[str, int]:
    """Return number of fp32 values of each part of a layer, in the order in which they are stored."""
    return {
        "weight": stored_weights(layer) if layer.weight_bits == 32 else 0,
        "weight_scale": layer.weight_scales,
        "codebook": layer.codebook,
        "act_scale": layer.act_scales,
        "extras": layer.extras * layer.out_channels,
        "buffers": layer.buffers * layer.out_channels if layer.kind != "buffer" else 0,
    }


def entry_bytes(layer: LayerProfile) -> int:
    """Return bytes that a layer takes in the header, at most; of a table, with its tensor."""
    if layer.kind in WITH_WEIGHT:
        masked = MASK_ENTRY_BYTES if layer.mask_unit else 0
        return WEIGHT_ENTRY_BYTES + (INPUT_ENTRY_BYTES if layer.act_scales else 0) + masked
    return OTHER_ENTRY_BYTES if layer.kind != "buffer" else TENSOR_ENTRY_BYTES + FLOAT_BYTES * layer.buffers


def packed_bytes(profile: Profile, codes: LayerBytes = code_bytes, number_bytes: int = FLOAT_BYTES) -> int:
    """Return bytes of the packed file of a network, batch norms folded: an upper bound within 2 % from 20 kB on.

    The tensors are counted exactly; only the header, compressed text, is bounded. Numbers that code splits channels by
    (split_numbers.py) are known of no profile: the names and values of 16 took 120 bytes more.

    Args:
        profile: of the network.
        codes: bytes of the codes of a layer, by default in fixed width.
        number_bytes: of each scale, bias and whatever else is no code, in a network that has codes; else they take 4.
    """
    if not has_codes(profile):
        number_bytes = FLOAT_BYTES
    with_norm = {layer.follows for layer in profile if layer.follows}
    total = HEADER_BYTES
    for layer in profile:
        total += entry_bytes(layer)
        if layer.follows:
            continue
        numbers = sum(float_counts(layer).values())
        if layer.name in with_norm:  # what LayerProfile.with_norm adds; searches ask too often to build it
            numbers += (1 - layer.extras) * layer.out_channels
            numbers += layer.out_channels - layer.weight_scales if layer.weight_scales or layer.codebook else 0
        total += codes(layer) + number_bytes * numbers + (mask_bytes(layer) if is_sparse(layer) else 0)
    return total
