"""Latency from a table of single layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar

import yaml
from typing_extensions import override

from lightning_compress.core.costs.cost import Cost
from lightning_compress.core.errors import CompressError
from lightning_compress.core.profile import LayerProfile, Profile

SIZES = ("in_channels", "out_channels", "positions", "weight_bits", "act_bits")


@dataclass(frozen=True)
class _Entry:
    """One measured layer.

    Attributes:
        alike: what a layer must share with it: kind, stride, and whether it is grouped.
        sizes: what of a layer must not be larger: input channels per group, output channels, output positions, weight
            and activation bits, then the kernel.
    """

    alike: tuple[str, int, bool]
    sizes: tuple[int, ...]
    milliseconds: float

    @classmethod
    def of(cls, layer: LayerProfile, milliseconds: float) -> _Entry:
        sizes = (layer.in_channels // layer.groups, *(getattr(layer, size) for size in SIZES[1:]), *layer.kernel)
        return cls((layer.kind, layer.stride, layer.groups > 1), sizes, milliseconds)

    def covers(self, other: _Entry) -> bool:
        """Return whether the other layer is like this one and nowhere larger."""
        return (
            self.alike == other.alike
            and len(self.sizes) == len(other.sizes)
            and all(ours >= theirs for ours, theirs in zip(self.sizes, other.sizes, strict=True))
        )


class LatencyTable(Cost):
    """Milliseconds per sample: the sum over conv, linear and transposed conv layers of what a table says of each.

    A layer takes the time of the fastest entry that is like it and nowhere smaller, so widths between two entries cost
    as much as the next larger one. That is how runtimes behave that compute channels in blocks, and it never rises when
    a layer gets smaller. Masked weights save no time here. A sum over layers ranks floating-point networks well and
    networks of 8-bit integers poorly, whose time depends on what the runtime fuses; measure the result too.

    A search projects plans onto a limit of milliseconds by it (``compress/cost=latency_table``), such as one of layers
    that were measured on a board; ``compress/cost=latency`` measures in ONNX Runtime on this machine. It is a YAML
    file::

        overhead: 0.02        # milliseconds of a sample beside its layers
        layers:
        - {kind: conv, in_channels: 16, out_channels: 32, kernel: [3, 3], positions: 1024, milliseconds: 0.05}

    where a layer has the fields of :class:`~lightning_compress.core.profile.LayerProfile`.

    Args:
        file: the table.

    Raises:
        CompressError: the file is missing or is no such table.
    """

    name: ClassVar[str] = "latency_table"
    unit: ClassVar[str] = "ms"
    label: ClassVar[str] = "latency by the table"
    digits: ClassVar[int | None] = 3

    def __init__(self, file: str | Path) -> None:
        table = _read(Path(file))
        self.overhead = float(table.get("overhead", 0.0))
        self.entries = table["layers"]
        self._layers = LayerTimes(self.entries, str(file))

    @override
    def __call__(self, profile: Profile) -> float:
        return self.overhead + sum(self._layers(layer) for layer in profile.kernels)


class LayerTimes:
    """Milliseconds of single layers: the time of the fastest entry that is like a layer and nowhere smaller.

    Args:
        entries: plain types, fields of :class:`LayerProfile` and ``milliseconds``.
        source: where they are from, for messages.

    Raises:
        CompressError: an entry is wrong.
    """

    def __init__(self, entries: Sequence[Mapping[str, Any]], source: str) -> None:
        self._entries = [_entry(entry, source) for entry in entries]
        self._known: dict[_Entry, float] = {}

    def covers(self, layer: LayerProfile) -> bool:
        """Return whether an entry is like the layer and nowhere smaller."""
        asked = _Entry.of(layer, 0.0)
        return asked in self._known or any(entry.covers(asked) for entry in self._entries)

    def __call__(self, layer: LayerProfile) -> float:
        """Return the time of a layer.

        Raises:
            CompressError: no entry covers it.
        """
        asked = _Entry.of(layer, 0.0)
        if asked not in self._known:
            found = [entry.milliseconds for entry in self._entries if entry.covers(asked)]
            if not found:
                raise CompressError(
                    f"latency_table: no entry covers layer {layer.name!r} ({layer.kind}, {layer.in_channels} to "
                    f"{layer.out_channels} channels, kernel {list(layer.kernel)}, stride {layer.stride}, groups "
                    f"{layer.groups}, {layer.positions} positions, {layer.weight_bits} bits); add one at least as large"
                )
            self._known[asked] = min(found)
        return self._known[asked]


def _read(file: Path) -> Mapping[str, Any]:
    try:
        table = yaml.safe_load(file.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise CompressError(f"latency_table: cannot read {str(file)!r} ({error}); give the file of a table") from error
    if not isinstance(table, Mapping) or not isinstance(table.get("layers"), list):
        raise CompressError(f"latency_table: {str(file)!r} has no list 'layers'; LatencyTable says what a table has")
    return table


def _entry(entry: Any, file: str | Path) -> _Entry:
    try:
        fields = dict(entry)
        milliseconds = float(fields.pop("milliseconds"))
        if not (isfinite(milliseconds) and milliseconds >= 0):
            raise ValueError(f"milliseconds is {milliseconds}")
        return _Entry.of(LayerProfile.from_dict({"name": "", **fields}), milliseconds)
    except (KeyError, TypeError, ValueError) as error:
        raise CompressError(f"latency_table: {str(file)!r} has a wrong entry {entry!r} ({error!r})") from error
