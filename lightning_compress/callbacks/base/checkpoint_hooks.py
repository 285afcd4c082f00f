"""Extend a module's own checkpoint hooks, so that every checkpoint carries the structure of its network.

``save_weights_only=True`` skips the hooks of callbacks, and those of callbacks come too late for loading: after the
weights were loaded.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from lightning import LightningModule

from lightning_compress.callbacks.base import refused_weights  # noqa: F401  which gives LightningModule its refusal
from lightning_compress.surgery.structure import accept_notice, load_structure, network, save_structure


def _save(self: LightningModule, checkpoint: dict[str, Any]) -> None:
    type(self).on_save_checkpoint(self, checkpoint)
    save_structure(network(self), checkpoint)


def _load(self: LightningModule, checkpoint: dict[str, Any]) -> None:
    load_structure(self, checkpoint)
    type(self).on_load_checkpoint(self, checkpoint)


def keep_structure_in_checkpoints(module: LightningModule) -> None:
    """Extend the module's own checkpoint hooks, so that every checkpoint carries the structure of its network."""
    # Partials: a copy of the module, pickled ones too, then saves its own network. Closures are bound to the first one,
    # and bound methods are pickled by a name that the class does not have.
    module.__dict__["on_save_checkpoint"] = partial(_save, module)
    module.__dict__["on_load_checkpoint"] = partial(_load, module)
    accept_notice(module)
