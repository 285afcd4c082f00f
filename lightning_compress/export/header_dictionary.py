"""Text that most descriptions have in common: the preset dictionary of their compression.

Without it the words themselves would be half of the header of a small network. It is part of the format: another text
needs another ``container.FORMAT``. What occurs most comes last (zlib's advice).
"""

from __future__ import annotations

# A method that is not here costs the bytes of its name, which the bound of the header has room for: a new one needs no
# other text, and so no other format.
_METHODS = {
    "log_normal_dropout": "log_normal",
    "information_dropout": "information",
    "variational_dropout": "variational",
    "layer_removal": "keep",
    "joint": "joint",
    "low_rank": "rank_in",
    "weight_pruning": "density",
    "channel_pruning": "channels",
}
_REPLACEMENTS = (
    "removed",
    "svd",
    "tucker2",
)
_QUANTIZERS = (
    "min_max_activation",
    "lsq_activation",
)
_COLUMNS = (
    "in_positions", "density", "mask_unit", "groups", "stride", "positions", "follows", "extras", "buffers",
    "weight_scales", "act_scales", "act_bits", "weight_bits", "in_channels", "out_channels",
)  # fmt: skip

WORDS = (
    "".join(f'{{"{name}":{{"names":["' for name in _REPLACEMENTS)
    + '"],"rank_out":[],"others":["layer1.0.conv1","layer1.0.bn1","features.0"]'
    + "".join(f'"{name}":{{"knobs":{{"{knob}":["1/2","1/4",' for name, knob in _METHODS.items())
    + "".join(f'"{name}":[0,1,2,0,0,' for name in _COLUMNS)
    + '0,0,0,0],"kernel":[[3,3],[],[1,1],[]],"kind":["conv","norm","linear","conv","norm"]},"applied":{'
    + '"quantization":{"knobs":{"act_bits":"profile","weight_bits":"profile"}}},"replaced":{}'
    + "".join(f'"kinds":[{{"kind":"{name}","shape":[]}}],"inputs":[0,' for name in _QUANTIZERS)
    + 'null,0,0],"weights":[0,null,0,null,0,null,null],"formats":[{"kind":"fixed_grid"}],"kinds":[],"inputs":[null,'
    + 'null],{"names":["conv1","bn1"],"layers":{'
).encode()
