"""Costs: profile -> number. Each is additive over layers and never rises when a layer gets smaller."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from lightning_compress.layout import packed_bytes
from lightning_compress.profile import Profile


class Cost(ABC):
    """What a network costs, computed from its profile alone."""

    unit: ClassVar[str]

    @abstractmethod
    def __call__(self, profile: Profile) -> float:
        """The cost of the network with this profile, in :attr:`unit`."""


@dataclass(frozen=True)
class MACs(Cost):
    """Multiply-accumulates per sample; weights that are zero do not count."""

    unit: ClassVar[str] = "MACs"

    def __call__(self, profile: Profile) -> float:
        return profile.macs


@dataclass(frozen=True)
class Parameters(Cost):
    """Number of parameters, of all kinds."""

    unit: ClassVar[str] = "parameters"

    def __call__(self, profile: Profile) -> float:
        return profile.parameters


@dataclass(frozen=True)
class WeightBits(Cost):
    """Bits of the non-zero conv and linear weights: the size that the papers report (no indices, scales, biases)."""

    unit: ClassVar[str] = "bits"

    def __call__(self, profile: Profile) -> float:
        return sum(layer.nonzeros * layer.weight_bits for layer in profile)


@dataclass(frozen=True)
class BitOperations(Cost):
    """Sum of MACs x weight bits x activation bits: what integer hardware with bit-serial arithmetic spends."""

    unit: ClassVar[str] = "bit operations"

    def __call__(self, profile: Profile) -> float:
        return sum(layer.macs * layer.weight_bits * layer.act_bits for layer in profile)


@dataclass(frozen=True)
class PackedBytes(Cost):
    """Bytes of the packed file with everything needed to run the network; an upper bound within 2 %."""

    unit: ClassVar[str] = "bytes"

    def __call__(self, profile: Profile) -> float:
        return packed_bytes(profile)
