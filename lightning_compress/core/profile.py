"""The profile: per layer its shape, MACs, weights, density and bits. The only thing that methods and costs share.

Callbacks turn the dense profile into the profile of the compressed network (``predict``), and costs turn a profile
into a number, so that neither knows the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from math import prod
from typing import Any

from lightning_compress.core.activations import Step, Steps, read_by
from lightning_compress.core.errors import CompressError

WITH_WEIGHT = ("conv", "linear", "conv_transpose", "matrix")


@dataclass(frozen=True)
class LayerProfile:
    """One layer that owns parameters.

    Attributes:
        name: its name in ``network.named_modules()``; of a ``parameter`` or ``buffer`` entry, the name of the tensor.
        kind: ``conv``, ``linear``, ``conv_transpose``, ``matrix`` (a weight of an embedding, a recurrent layer or
            attention), ``norm`` (batch norm and other affine layers per channel), ``parameter`` (any other parameter),
            ``buffer`` (any other buffer that checkpoints hold), or ``folded`` (a batch norm that the layer before it
            has taken over).
        in_channels, out_channels, groups, kernel, stride: as in torch; ``parameter`` and ``norm`` have in == out.
        positions: output positions per sample (height x width of a conv, tokens of a linear layer); of a transposed
            convolution those of its input; 0 for a layer that is not called, and for a table that is looked up.
        read_positions: of a layer that is not called, for code reads its weight: positions that are multiplied with it.
        in_positions: of the input of a convolution, where they are not as many; else 0.
        extras: fp32 parameters per output channel beside the weight (1 for a bias, 2 for a batch norm).
        buffers: fp32 buffer values per output channel (2 for the running statistics of a batch norm); of a table, its
            size in units of 4 bytes.
        follows: for a batch norm, the conv or linear layer whose output goes to it and nowhere else: the pair that
            is folded when the network is materialized.
        density: share of the weights that are not masked.
        mask_unit: weights that the mask keeps or drops together; 0 without a mask.
        weight_bits, act_bits: 32 means floating point.
        weight_scales, act_scales: fp32 values stored beside the quantized weight and for the input quantizer.
        codebook: fp32 values that the codes of the weight point to; 0 for a uniform grid.
    """

    name: str
    kind: str
    in_channels: int
    out_channels: int
    groups: int = 1
    kernel: tuple[int, ...] = ()
    stride: int = 1
    positions: int = 1
    in_positions: int = 0
    read_positions: int = 0
    extras: int = 0
    buffers: int = 0
    follows: str = ""
    density: float = 1.0
    mask_unit: int = 0
    weight_bits: int = 32
    act_bits: int = 32
    weight_scales: int = 0
    act_scales: int = 0
    codebook: int = 0

    @property
    def weights(self) -> int:
        """Number of weights: ``out x in / groups x kernel`` for layers with a weight, else 0."""
        if self.kind not in WITH_WEIGHT:
            return 0
        return self.out_channels * (self.in_channels // self.groups) * prod(self.kernel)

    @property
    def nonzeros(self) -> int:
        """Number of weights that are not masked."""
        return round(self.weights * self.density)

    @property
    def macs(self) -> int:
        """Multiply-accumulates per sample; zero weights count in proportion to ``density``."""
        return self.nonzeros * (self.positions or self.read_positions)

    @property
    def parameters(self) -> int:
        """Number of parameters, weights and all others."""
        return self.weights + self.extras * self.out_channels

    def with_norm(self) -> LayerProfile:
        """Return the layer after a batch norm is folded into it: it has a bias, and its scales are one per channel."""
        scaled = self.weight_scales or self.codebook
        return replace(self, extras=1, weight_scales=self.out_channels if scaled else 0)

    def to_dict(self) -> dict[str, Any]:
        """Return plain types, fields at their default left out."""
        blank = {f.name: f.default for f in fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items() if v != blank[k]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LayerProfile:
        """Build from plain types, the inverse of :meth:`to_dict`."""
        fields: dict[str, Any] = {k: tuple(v) if k == "kernel" else v for k, v in data.items()}
        return cls(**fields)


@dataclass(frozen=True)
class Profile:
    """The layers of a network by name, in the order in which they first run.

    Attributes:
        steps: that write and read activations; empty where no network was run. Profiles compare by their layers alone.
    """

    layers: Mapping[str, LayerProfile]
    steps: Steps = field(default=(), compare=False, repr=False)

    def __getitem__(self, name: str) -> LayerProfile:
        return self.layers[name]

    def __iter__(self) -> Iterator[LayerProfile]:
        return iter(self.layers.values())

    def __len__(self) -> int:
        return len(self.layers)

    @cached_property
    def architecture(self) -> tuple[object, ...]:
        """Equal for two profiles exactly when names and shapes of all layers are, and what each operation reads."""
        shapes = ((p.name, p.kind, p.in_channels, p.out_channels, p.groups, p.kernel, p.stride) for p in self)
        return tuple(shapes), tuple((step.module, step.inputs) for step in self.steps)

    @property
    def weighted(self) -> list[LayerProfile]:
        """The conv and linear layers, to which every method applies."""
        return [layer for layer in self if layer.kind in ("conv", "linear")]

    @property
    def kernels(self) -> list[LayerProfile]:
        """The layers that runtimes for deployment have kernels for: conv, linear and transposed convolutions."""
        return [layer for layer in self if layer.kind in ("conv", "linear", "conv_transpose")]

    @property
    def conv_groups(self) -> dict[str, int]:
        """Number of groups of each convolution, transposed ones too, which the shape of its weight does not tell."""
        return {layer.name: layer.groups for layer in self if layer.kind in ("conv", "conv_transpose")}

    @property
    def widths(self) -> dict[str, int]:
        """Number of channels that each name among the values of the steps stands for."""
        return {n: p.out_channels for n, p in self.layers.items()} | {
            read_by(n): p.in_channels for n, p in self.layers.items()
        }

    @property
    def quantizable(self) -> list[LayerProfile]:
        """All layers with a weight: conv and linear ones, transposed convolutions, and single matrices."""
        return [layer for layer in self if layer.kind in WITH_WEIGHT]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one sample through all layers with a weight."""
        return sum(layer.macs for layer in self)

    @property
    def unmasked_macs(self) -> int:
        """Multiply-accumulates of one sample where masked weights are multiplied too, as a dense runtime does."""
        return sum(layer.weights * (layer.positions or layer.read_positions) for layer in self)

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(layer.parameters for layer in self)

    def inside(self, name: str) -> list[LayerProfile]:
        """Return the layer of that name, or those in the module of that name."""
        return [layer for layer in self if layer.name == name or layer.name.startswith(f"{name}.")]

    def update(self, changed: Iterable[LayerProfile]) -> Profile:
        """Return the profile with some layers replaced."""
        return Profile({**self.layers, **{layer.name: layer for layer in changed}}, self.steps)

    def change(self, name: str, **fields_: Any) -> Profile:
        """Return the profile with some fields of one layer replaced.

        >>> dense = Profile({"fc": LayerProfile("fc", "linear", 4, 2)})
        >>> dense.change("fc", weight_bits=4)["fc"].weight_bits
        4
        """
        return self.update([replace(self.layers[name], **fields_)])

    def folded(self) -> Profile:
        """Return the profile after each batch norm that follows a conv or linear layer is folded into it.

        The norm stays in the list, as kind ``folded`` with nothing of its own.
        """
        pairs = {layer.follows for layer in self if layer.follows}
        gone = [replace(p, kind="folded", extras=0, buffers=0, follows="") for p in self if p.follows]
        return self.update([*(p.with_norm() for p in self if p.name in pairs), *gone])

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON, YAML and checkpoints; layers are a list, to keep the order."""
        return {"layers": [layer.to_dict() for layer in self], "steps": [step.to_list() for step in self.steps]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Profile:
        """Build from plain types, the inverse of :meth:`to_dict`.

        Raises:
            CompressError: the data holds no list of layers.
        """
        try:
            layers = {layer.name: layer for layer in map(LayerProfile.from_dict, data["layers"])}
            return cls(layers, tuple(map(Step.from_list, data["steps"])))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CompressError(
                f"profile: expected layers and steps as Profile.to_dict gives them ({error!r})"
            ) from error
