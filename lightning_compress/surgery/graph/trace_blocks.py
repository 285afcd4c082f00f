"""Find removable layers and blocks in one forward pass, and verify each by execution.

The units of removal are the outermost blocks that keep their shape, except for containers of several such blocks, and
single layers outside of them (N2N, arXiv 1709.06030, removes single leaves; larger units are ours). As there, the first
and the last layer and strided ones stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_compress.core.errors import CompressError
from lightning_compress.core.profile import LayerProfile, Profile
from lightning_compress.surgery import measure
from lightning_compress.surgery.copies import clone
from lightning_compress.surgery.graph.block_readers import find_readers
from lightning_compress.surgery.graph.blocks import Removable, RemovalGraph, Removed
from lightning_compress.surgery.graph.channels import IN, ChannelGraph
from lightning_compress.surgery.graph.reasons import not_called
from lightning_compress.surgery.graph.trace_channels import trace_channels
from lightning_compress.surgery.modes import Mode, modes_of
from lightning_compress.surgery.replacement import Replacement
from lightning_compress.surgery.tensors import tensors_in
from lightning_compress.surgery.transforms import bake

WEIGHTED = (*measure.CONV, *measure.LINEAR)


@dataclass
class _Seen:
    """Record of one module in a forward pass."""

    calls: int = 0
    keeps_shape: bool = False


def find_removable(net: nn.Module, profile: Profile, example: Any) -> RemovalGraph:
    """Return what can be removed from a network, which is not changed.

    Args:
        net: any module.
        profile: of ``net``.
        example: one input batch.
    """
    net = bake(clone(net))
    seen, kept, parts = _run(net, example), {}, []
    running = [layer.name for layer in profile.weighted if layer.positions]
    for name in _units(net, "", seen):
        inside = [p for p in profile if p.name == name or p.name.startswith(f"{name}.")]
        if not seen[name].calls:
            kept.update(not_called(net, [layer.name for layer in inside if layer.weights], example))
            continue
        reason = _reason(net.get_submodule(name), inside, {running[0], running[-1]}, seen[name])
        if reason is not None:
            kept.update({layer.name: reason for layer in inside})
            continue
        own = dict.fromkeys(layer.name for layer in inside)  # in one order, whatever the hashes of this process
        norms = [p.name for p in profile if p.follows in own and p.name not in own]
        parts.append(Removable(name, (name, *norms), (*own, *norms)))
    order = {name: i for i, name in enumerate(profile.layers)}
    parts.sort(key=lambda part: min(order[layer] for layer in part.layers))
    readers = find_readers(net, example, [part.name for part in parts])
    parts = [replace(part, readers=readers[part.name]) for part in parts]
    found = _chained(net, profile, example, parts, seen, kept)
    wrong = _verify(RemovalGraph(found, {}), net, example)
    kept.update({layer: why for name, why in wrong.items() for layer in found[name].layers})
    good = {name: part for name, part in found.items() if name not in wrong}
    covered = {layer for part in good.values() for layer in part.layers}
    stays = [layer.name for layer in profile.weighted if layer.name not in covered]
    return RemovalGraph(good, {name: kept.get(name, "it is inside a part that stays as a whole") for name in stays})


def _run(net: nn.Module, example: Any) -> dict[str, _Seen]:
    seen = {name: _Seen() for name, _ in net.named_modules()}

    def watch(entry: _Seen) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            entry.calls += 1
            alone = len(args) == 1 and not kwargs and isinstance(args[0], Tensor) and isinstance(output, Tensor)
            entry.keeps_shape = alone and (args[0].shape, args[0].dtype) == (output.shape, output.dtype)

        return hook

    handles = [m.register_forward_hook(watch(seen[n]), with_kwargs=True) for n, m in net.named_modules()]
    measure.forward_hooked(net, example, handles)
    return seen


def _units(module: nn.Module, prefix: str, seen: Mapping[str, _Seen]) -> Iterator[str]:
    """Return names of the blocks and layers that are removed as one, if they can be."""
    for key, child in module.named_children():
        name = f"{prefix}{key}"
        if isinstance(child, Removed) or name not in seen:  # a second name of a module
            continue
        if isinstance(child, WEIGHTED) or (_is_block(child, name, seen) and not _holds_blocks(child, name, seen)):
            yield name
        else:
            yield from _units(child, f"{name}.", seen)


def _is_block(module: nn.Module, name: str, seen: Mapping[str, _Seen]) -> bool:
    chain = isinstance(module, nn.Sequential) and not isinstance(module, Replacement)
    layers = any(isinstance(m, WEIGHTED) for m in module.modules())
    return layers and not chain and not isinstance(module, WEIGHTED) and name in seen and seen[name].keeps_shape


def _holds_blocks(module: nn.Module, name: str, seen: Mapping[str, _Seen]) -> bool:
    """Return whether a list or chain in the module holds several blocks: then they are removed, not it."""
    chains = [(n, m) for n, m in module.named_modules() if isinstance(m, (nn.Sequential, nn.ModuleList))]
    inner = [
        key for n, m in chains for k, c in m.named_children()
        if _is_block(c, key := f"{name}.{n}.{k}" if n else f"{name}.{k}", seen)
    ]  # fmt: skip
    return len(inner) > 1


def _reason(module: nn.Module, layers: Sequence[LayerProfile], ends: set[str], seen: _Seen) -> str | None:
    """Return why a block or layer must stay, judged without its neighbors; None if it need not."""
    if seen.calls != 1:
        return f"it runs {seen.calls} times in one forward pass"
    if ends & {layer.name for layer in layers}:
        return "it is, or holds, the first or the last layer"
    if any(layer.stride > 1 for layer in layers):
        return "it is strided"
    if seen.keeps_shape:
        return None
    layer = layers[0]
    if layer.in_positions or layer.groups > 1:
        return "its output has another height or width than its input" if layer.in_positions else "it has groups"
    if layer.in_channels > layer.out_channels:
        return "it has fewer outputs than inputs: the layer behind it would have to grow"
    return None


def _chained(
    net: nn.Module, profile: Profile, example: Any, parts: Sequence[Removable], seen: Mapping[str, _Seen],
    kept: dict[str, str],
) -> dict[str, Removable]:  # fmt: skip
    """Attach the reader to each removable layer in a sequential chain; drop widening layers elsewhere."""
    graph = ChannelGraph({}, {})
    if not all(seen[part.name].keeps_shape for part in parts):  # else all is known, and tracing takes time
        with suppress(CompressError):  # then nothing is known to be a plain chain
            graph = trace_channels(net, profile, example)
    found: dict[str, Removable] = {}
    for part in reversed(parts):
        link = _reader(graph, part, profile)
        owner = next((p for p in found.values() if link and link[0] in p.layers), None)
        # A reader that is removed too must hand on its inputs: a block cannot, nor a layer that others read.
        if link and (owner is None or (owner.name == link[0] and owner.reader)):
            found[part.name] = replace(part, reader=link[0], per_channel=link[1])
        elif seen[part.name].keeps_shape:
            found[part.name] = part
        else:
            kept[part.name] = "it has more outputs than inputs, and they do not go to one layer alone in a plain chain"
    return dict(reversed(found.items()))


def _reader(graph: ChannelGraph, part: Removable, profile: Profile) -> tuple[str, int] | None:
    """Return the only reader of a layer's outputs, and how many inputs each gives; None if there are others."""
    group = graph.groups.get(part.name)
    if group is None or {member.layer for member in group.producers} - set(part.layers):
        return None
    readers = [member for member in group.members if member.side == IN]
    if len(readers) != 1:
        return None
    layer, reader, per_channel = profile[part.name], profile[readers[0].layer], readers[0].index.shape[1]
    alone = reader.in_channels == layer.out_channels * per_channel
    return (reader.name, per_channel) if alone and reader.groups == 1 and group.units == layer.out_channels else None


def _verify(graph: RemovalGraph, net: nn.Module, example: Any) -> dict[str, str]:
    """Return part -> why removing it does not leave the expected network; parts for which it does are not named.

    Half of all parts are removed at once, in so many ways that of any two parts each goes once without the other;
    a half that is wrong is tried again in parts.
    """
    names, wrong = list(graph.removable), dict[str, str]()
    dense, modes = measure.measure(net, example), modes_of(clone(net), example)
    expected = _shapes(clone(net), example, modes)
    halves = [[name for i, name in enumerate(names) if i >> bit & 1 == side] for bit, side in _bits(len(names))]

    def try_(some: list[str]) -> None:
        some = [name for name in some if name not in wrong]
        reason = _difference(graph, net, dense, example, modes, expected, some) if some else None
        if reason is not None and len(some) == 1:
            wrong[some[0]] = reason
        elif reason is not None:
            try_(some[: len(some) // 2])
            try_(some[len(some) // 2 :])

    for half in halves:
        try_(half)
    return wrong


def _bits(count: int) -> list[tuple[int, int]]:
    """Return the bits in which numbers below ``count`` differ, with both values."""
    return [(bit, side) for bit in range(max((count - 1).bit_length(), 1)) for side in (0, 1)]


def _difference(
    graph: RemovalGraph, net: nn.Module, dense: Profile, example: Any, modes: Sequence[Mode],
    expected: list[list[torch.Size]], names: Sequence[str],
) -> str | None:  # fmt: skip
    """Return why removing some parts does not leave a network with the expected profile; None if it does."""
    probe = clone(net)
    parts = ", ".join(map(repr, names))
    try:
        graph.remove(probe, dense, set(names))
        found = measure.measure(probe, example)
        shapes = _shapes(probe, example, modes)
    except Exception:  # whatever the network's own forward raises
        return f"without {parts} a layer behind it gets a shape that it does not take"
    if found != graph.without(dense, set(names)) or expected != shapes:
        return f"without {parts} other layers, or the output, would change their shapes"
    return None


def _shapes(net: nn.Module, example: Any, modes: Sequence[Mode]) -> list[list[torch.Size]]:
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        return [[t.shape for t in tensors_in(mode(net, example))] for mode in modes]
