"""The network of a stage before it is compressed, and how it is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lightning import LightningModule
from lightning.pytorch.callbacks import Callback


@dataclass(frozen=True)
class Student:
    """The module of a stage as a planner gets it.

    Attributes:
        module: a copy of the module that came in, with ``attributes`` set.
        distillation: ``(teacher) -> callback`` for all fine-tuning, of candidates too, or None.
        attributes: that were set on the module, such as its learning rate ``lr``.
    """

    module: LightningModule
    distillation: Callable[..., Callback] | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
