"""The figures of one network: what tables, reports and comparisons show."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figures:
    """What the report says of one network. Accuracies are of the test set, which only this opens."""

    accuracy: float
    bytes: int
    weight_bits: int
    macs: int
    parameters: int
    latency_ms: float
