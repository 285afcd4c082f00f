"""Taking layers and blocks out of a network: what goes together, what it leaves by arithmetic, and doing it.

A *block* gives a tensor of the shape that it gets: an identity can stand in its place. A *layer* is a convolution or
linear layer of which that is true, or one that widens a plain chain: the only layer that reads its outputs then gets
narrower. The batch norm behind a layer goes with it; activations stay. removal_trace.py finds them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_compress.core import activations
from lightning_compress.core.profile import Profile
from lightning_compress.surgery import resize, transforms
from lightning_compress.surgery.replacement import Replacement, replace_modules


@final
class Removed(Replacement, nn.Identity):
    """Stands where a layer or block was.

    It gives a tensor of its own, as that did: what comes next may work in place (``out += identity`` in torchvision's
    ResNets), and must change neither what others read nor what autograd keeps.
    """

    kind: ClassVar[str] = "removed"

    @classmethod
    @override
    def like(cls, old: nn.Module, **arguments: Any) -> Self:
        return cls()

    @override
    def take_hooks(self, old: nn.Module) -> None:
        """Leave them: they go with the layer that they were put on."""

    @override
    def config(self) -> dict[str, Any]:
        return {}

    @override
    def forward(self, input: Tensor) -> Tensor:
        return input.clone()


@dataclass(frozen=True)
class Removable:
    """Parts that go when one layer or block is removed.

    Attributes:
        name: of the layer or block.
        modules: those in whose place an identity comes: itself, and the batch norms behind it.
        layers: of the profile, that are gone then.
        reader: the only layer that reads the outputs, in a plain chain, and may get narrower; else "".
        per_channel: inputs of the reader for each output channel: more than one behind a flattening.
        readers: all layers that read the outputs, alone or in sums with others (removal_readers.py).
    """

    name: str
    modules: tuple[str, ...]
    layers: tuple[str, ...]
    reader: str = ""
    per_channel: int = 1
    readers: tuple[str, ...] = ()


@dataclass(frozen=True)
class RemovalGraph:
    """All that can be removed, in the order in which it runs, and why the other layers stay."""

    removable: Mapping[str, Removable]
    kept: Mapping[str, str]

    def parts(self, names: Collection[str]) -> list[Removable]:
        """Return those of some names, in the order in which they run."""
        return [part for name, part in self.removable.items() if name in names]

    def without(self, profile: Profile, names: Collection[str]) -> Profile:
        """Return the profile after some are removed."""
        layers, parts = dict(profile.layers), self.parts(names)
        for part in parts:
            if part.reader:  # it may be removed next, and hands on what it would have read
                width = layers[part.name].in_channels * part.per_channel
                layers[part.reader] = replace(layers[part.reader], in_channels=width)
            for layer in part.layers:
                del layers[layer]
        return Profile(layers, activations.without(profile.steps, {name for part in parts for name in part.modules}))

    def readers(self, profile: Profile, names: Collection[str]) -> dict[str, bool]:
        """Return layer that reads what some gave, in the order in which they run -> whether it gets narrower."""
        after = self.without(profile, names)
        found = {name for part in self.parts(names) for name in (part.reader, *part.readers)}
        return {
            layer.name: layer.in_channels != profile[layer.name].in_channels for layer in after if layer.name in found
        }

    def remove(self, net: nn.Module, profile: Profile, names: Collection[str]) -> None:
        """Remove some from a network of that profile, in place; weights of layers that get narrower become zeros.

        Raises:
            CompressError: a layer that would get narrower is masked or quantized.
        """
        after = self.without(profile, names)
        narrower = [name for name, changed in self.readers(profile, names).items() if changed]
        for name in narrower:
            transforms.check_plain(name, net.get_submodule(name), "LayerRemoval")
        replace_modules(net, {name: Removed() for part in self.parts(names) for name in part.modules})
        weights = {name: net.get_submodule(name).weight.shape for name in narrower}
        resize.resize(
            net,
            {f"{n}.weight": torch.Size([shape[0], after[n].in_channels, *shape[2:]]) for n, shape in weights.items()},
            {},
        )
