"""Latency in ONNX Runtime, in float32."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from typing_extensions import override

from lightning_compress.core.costs.latency_table import LayerTimes
from lightning_compress.core.costs.measured_cost import MeasuredCost
from lightning_compress.core.json_record import read_record, write_record
from lightning_compress.core.profile import LayerProfile, Profile
from lightning_compress.export import compared
from lightning_compress.export.deployable import Deployable, deployable
from lightning_compress.export.least_time import least_of_turns
from lightning_compress.export.onnx.layer_time import layer_call
from lightning_compress.export.onnx.session import Session, runtime_version
from lightning_compress.export.onnx.write import onnx_bytes, torch_onnx_bytes
from lightning_compress.surgery import measure, transforms
from lightning_compress.surgery.structure import network

FILE = "latency.json"
AT_ONCE = 128  # layers that take turns while they are timed
SHARES = (1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 1.0)  # of the channels of a layer that it is timed at


@dataclass
class _Known:
    """Measurements on one machine with one version of the runtime.

    Attributes:
        networks: digest of a structure -> milliseconds.
        layers: entries of :class:`LayerTimes`.
        file: where they are kept, or None.
    """

    networks: dict[str, float] = field(default_factory=dict)
    layers: list[dict[str, Any]] = field(default_factory=list)
    file: Path | None = None


@dataclass(frozen=True)
class Latency(MeasuredCost):
    """Milliseconds of one sample on one thread: the least CPU time of many runs of the whole exported network.

    The estimate of a profile is a sum over layers, each timed alone at some widths, see :class:`LayerTimes`. Whole
    networks are measured with whatever weights they have, once for each structure, machine and version of the runtime.

    Args:
        round_to: multiple of channels at which the runtime gets faster; channel pruning rounds to it by default.
    """

    name: ClassVar[str] = "latency"
    unit: ClassVar[str] = "ms"
    label: ClassVar[str] = "latency estimated from layers"
    digits: ClassVar[int | None] = 3
    integer: ClassVar[bool] = False

    round_to: int = 16
    _known: _Known = field(default_factory=_Known, init=False, repr=False, compare=False)
    _times: LayerTimes = field(
        default_factory=partial(LayerTimes, (), "latency"), init=False, repr=False, compare=False
    )

    @override
    def __call__(self, profile: Profile) -> float:
        missing = [layer for layer in profile.kernels if not self._times.covers(layer)]
        if missing:
            self._time(missing)
        return sum(self._times(layer) for layer in profile.kernels)

    @override
    def measure(self, net: nn.Module, example: Any) -> float:
        key = self._key(net, example)
        if key not in self._known.networks:
            x = compared.first_samples(example)[:2]
            found = deployable(self._plain(net), x, [x] if self.integer else None)
            self._known.networks[key] = self.time_network(found, x)
            self._save()
        return self._known.networks[key]

    def runtime(self) -> str:
        """Return the name of the runtime with its version.

        Raises:
            CompressError: it is not installed.
        """
        return runtime_version()

    def time_network(self, found: Deployable, x: Tensor) -> float:
        """Return the milliseconds of the first sample of ``x`` through a network, see :func:`deployable`."""
        content = torch_onnx_bytes(found.reference, x) if found.graph is None else onnx_bytes(found.graph)
        return Session(content).milliseconds(x[:1])

    def layer_call(self, layer: LayerProfile) -> Callable[[], object]:
        """Return what runs a layer alone."""
        return layer_call(layer, self.integer)

    @override
    def keep_in(self, folder: Path) -> None:
        file = folder / FILE
        if self._known.file == file:
            return
        kept = read_record(file) if file.is_file() else {}
        own = kept.get(self.name, {})
        known = _Known(file=file)
        if own.get("machine") == compared.machine() and own.get("runtime") == self.runtime():
            known.networks, known.layers = own["networks"], own["layers"]
        object.__setattr__(self, "_known", known)
        object.__setattr__(self, "_times", LayerTimes(known.layers, self.name))

    def _plain(self, net: nn.Module) -> nn.Module:
        """Return the network to deploy; in floating point without quantizers."""
        copied = copy.deepcopy(network(net)).cpu().eval()
        return copied if self.integer else transforms.bake(copied)

    def _key(self, net: nn.Module, example: Any) -> str:
        profile = measure.measure(network(net), example)
        shapes = [(p.kind, p.in_channels, p.out_channels, p.groups, p.kernel, p.stride, p.positions) for p in profile]
        steps = [(step.inputs, step.values, step.pointwise) for step in profile.steps]
        return sha256(json.dumps([shapes, steps]).encode()).hexdigest()[:16]

    def _time(self, layers: list[LayerProfile]) -> None:
        known = self._known.layers
        wider = list(dict.fromkeys(wide for found in layers for wide in self._widths(found)))
        for part in (wider[i : i + AT_ONCE] for i in range(0, len(wider), AT_ONCE)):
            for layer, milliseconds in zip(part, least_of_turns([self.layer_call(p) for p in part]), strict=True):
                fields = layer.to_dict()
                del fields["name"]
                known.append({**fields, "milliseconds": round(milliseconds, 6)})
        object.__setattr__(self, "_times", LayerTimes(known, self.name))
        self._save()

    def _widths(self, layer: LayerProfile) -> Iterator[LayerProfile]:
        """Return the layer at pairs of widths; of a grouped one the widths of its groups, or fewer groups."""
        plain = replace(
            layer, name="", extras=0, follows="", in_positions=0, weight_bits=32, act_bits=32, density=1.0,
            mask_unit=0, weight_scales=0, act_scales=0, codebook=0,
        )  # fmt: skip
        if layer.groups > 1:
            per_in, per_out = layer.in_channels // layer.groups, layer.out_channels // layer.groups
            if min(per_in, per_out) > 1:
                for inside in product(
                    *({max(1, round(share * width)) for share in SHARES} for width in (per_in, per_out))
                ):
                    yield replace(plain, in_channels=layer.groups * inside[0], out_channels=layer.groups * inside[1])
                return
            for groups in {max(1, round(share * layer.groups)) for share in SHARES}:
                yield replace(plain, groups=groups, in_channels=groups * per_in, out_channels=groups * per_out)
            return
        for inputs, outputs in product(self._rounded(layer.in_channels), self._rounded(layer.out_channels)):
            yield replace(plain, in_channels=inputs, out_channels=outputs)

    def _rounded(self, channels: int) -> list[int]:
        found = {-(-round(share * channels) // self.round_to) * self.round_to for share in SHARES}
        return sorted({min(max(width, 1), channels) for width in found})

    def _save(self) -> None:
        known = self._known
        if known.file is None:
            return
        kept = read_record(known.file) if known.file.is_file() else {}
        kept[self.name] = {
            "machine": compared.machine(), "runtime": self.runtime(), "networks": known.networks,
            "layers": known.layers,
        }  # fmt: skip
        write_record(known.file, kept)
