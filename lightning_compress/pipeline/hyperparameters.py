"""Read what a module was told at its construction, on which its trainings depend."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from lightning import LightningModule

from lightning_compress.core.settings import settings_of

PLAIN = (bool, int, float, str)


def hyperparameters(module: LightningModule) -> dict[str, Any]:
    """Return numbers and texts that a module was made with, as plain types.

    These are arguments of its constructors that it keeps under their own names, and what ``save_hyperparameters``
    keeps. Other attributes may be counters and records of a training, which are no settings.
    """
    makers = [vars(kind)["__init__"] for kind in type(module).__mro__ if "__init__" in vars(kind)]
    names = {name for make in makers for name in inspect.signature(make).parameters}
    kept = {name: value for name, value in vars(module).items() if name in names}
    saved: Mapping[str, Any] = module.hparams
    return settings_of({name: value for name, value in {**saved, **kept}.items() if isinstance(value, PLAIN)})
