"""Compression state attached to a network: its profile and the plan that each callback applied.

The record is how ``setup`` stays idempotent, what a checkpoint carries, and where ``save`` finds the profile. It is
plain data, so it survives ``deepcopy`` and loads with ``weights_only=True``.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from lightning_compress.core.errors import CompressError, did_you_mean
from lightning_compress.core.plan import Plan
from lightning_compress.core.profile import Profile
from lightning_compress.surgery import replacement, resize, transform_specs, transforms
from lightning_compress.surgery.calibration import drop_calibration
from lightning_compress.surgery.copies import keep_copyable
from lightning_compress.surgery.lightning_module import is_lightning_module
from lightning_compress.surgery.split_numbers import numbers_of, set_numbers

KEY = "lightning_compress"
FORMAT = 3
ATTACHED = re.compile(r"parametrizations\.(\w+)\.original$")  # in a state_dict: a weight with transforms
# Name of an empty tensor in the state_dict of a checkpoint. It comes first in the error of a load that knows nothing of
# the structure, perhaps in a program that has not imported this package.
NOTICE = (
    "[lightning_compress: this checkpoint is of a compressed network, whose shapes are others than those of the dense "
    "one; give the Trainer the same compression callbacks, or, for load_from_checkpoint, write class MyModule("
    "lightning_compress.CompressibleMixin, LightningModule)]"
)
ACCEPTS = "_accepts_notice"  # in the __dict__ of a module that loads a state_dict with the notice in it
SELECTED = "compressed_network"  # attribute of a LightningModule: the name of the sub-module to compress


@dataclass
class Structure:
    """Compression state of a network.

    Attributes:
        profile: the network as it is now.
        applied: kind of a callback -> the plan it applied, as it was rounded.
        asked: kind of a callback -> the plan it was given.
    """

    profile: Profile
    applied: dict[str, Plan] = field(default_factory=dict)
    asked: dict[str, Plan] = field(default_factory=dict)

    @property
    def plan(self) -> Plan:
        """All that was applied, as one plan."""
        merged = Plan({})
        for plan in self.applied.values():
            merged = merged.merge(plan)
        return merged


def network(module: nn.Module) -> nn.Module:
    """Return the network whose layer names plans use.

    Of a LightningModule the sub-module that its attribute ``compressed_network`` names, such as the generator of a GAN;
    else its only child with parameters; else the module itself. So a plan does not depend on whether the user calls the
    network ``net`` or ``model``, and fits the bare network.

    Raises:
        CompressError: there is no sub-module of that name, or the module is one of ``pytorch_lightning``.
    """
    if not is_lightning_module(module):
        check_library(module)
        return module
    selected = getattr(module, SELECTED, None)
    if selected is not None:
        return _selected(module, selected)
    children = [c for c in module.children() if next(c.parameters(), None) is not None]
    owns = next(module.parameters(recurse=False), None) is not None
    return children[0] if len(children) == 1 and not owns else module


def _selected(module: nn.Module, name: str) -> nn.Module:
    modules = dict(module.named_modules())
    if name not in modules or not name:
        raise CompressError(
            f"{type(module).__name__}: the network to compress is said to be {name!r}, and there is no such sub-module"
            f"{did_you_mean(name, modules)}"
        )
    return modules[name]


def check_library(given: Any) -> None:
    """Raise for a module, data module or Trainer of ``pytorch_lightning``, which no class of ``lightning`` is.

    Raises:
        CompressError: with the line to change.
    """
    for kind in type(given).__mro__:
        if kind.__module__.partition(".")[0] == "pytorch_lightning":
            raise CompressError(
                f"{type(given).__name__} is a {kind.__name__} of pytorch_lightning, the old name of lightning, whose "
                f"classes the two do not share; write 'import lightning.pytorch as pl' in place of 'import "
                f"pytorch_lightning as pl'"
            )


def structure_of(net: nn.Module) -> Structure | None:
    """Return the record of a network, or None when no callback has touched it."""
    return net.__dict__.get("_" + KEY)


def applied_structure(net: nn.Module) -> Structure:
    """Return the record of a network that a callback has compressed.

    Raises:
        CompressError: no callback has touched it.
    """
    record = structure_of(net)
    if record is None:
        raise CompressError(f"{type(net).__name__}: no compression callback was applied to it")
    return record


def write_structure(net: nn.Module, record: Structure) -> None:
    """Keep the record on the network."""
    net.__dict__["_" + KEY] = record
    keep_copyable(net)
    accept_notice(net)


def save_structure(net: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Write all that is needed to rebuild the network's structure into a checkpoint, as plain types."""
    record = structure_of(net)
    if record is not None:
        checkpoint[KEY] = {
            "format": FORMAT,
            "profile": record.profile.to_dict(),
            "applied": {name: plan.to_dict() for name, plan in record.applied.items()},
            "asked": {name: plan.to_dict() for name, plan in record.asked.items()},
            "replaced": replacement.describe(net),
            "transforms": transform_specs.describe(net),
            "numbers": numbers_of(net),
        }
        if any(plan.layers for plan in record.applied.values()):
            _add_notice(checkpoint)


def _add_notice(checkpoint: dict[str, Any]) -> None:
    state = checkpoint.get("state_dict")
    if isinstance(state, OrderedDict):
        state[NOTICE] = torch.empty(0)
        state.move_to_end(NOTICE, last=False)


def accept_notice(module: nn.Module) -> None:
    """Let a compressed module load a ``state_dict`` with the notice in it by hand, whatever ``strict`` is.

    Args:
        module: the network, or the LightningModule around it; copies accept it too.
    """
    if ACCEPTS not in module.__dict__:
        module.__dict__[ACCEPTS] = True
        module.register_load_state_dict_pre_hook(_without_notice)


def _without_notice(module: nn.Module, state: dict[str, Any], *_: Any) -> None:
    """Take the notice out of what is loaded; it stays in what the caller holds.

    Raises:
        CompressError: the network is dense, or the shapes are those of another plan.
    """
    if state.pop(NOTICE, None) is None:
        return
    kind, own = type(module).__name__, module.state_dict()
    if structure_of(network(module)) is None:
        raise CompressError(
            f"load_state_dict: these weights are of a compressed network, and this {kind} is dense. Load the "
            f"checkpoint by {kind}.load_from_checkpoint, or give it to a Trainer with the same callbacks"
        )
    wrong = next((key for key, value in state.items() if key in own and own[key].shape != value.shape), None)
    if wrong is not None:
        raise CompressError(
            f"load_state_dict: {wrong!r} has shape {tuple(state[wrong].shape)} there and {tuple(own[wrong].shape)} in "
            f"this {kind}: it is of a network compressed by another plan. Apply the plan of the checkpoint, or give "
            f"the checkpoint to a Trainer with the same callbacks"
        )


def load_structure(module: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Give the network inside ``module`` the structure that a checkpoint was saved with, before its weights load.

    Does nothing for a checkpoint of an uncompressed network, and for a network that has that structure already. The
    notice for others is taken out of its ``state_dict``.

    Raises:
        CompressError: the network already has another structure, or the checkpoint is of another format.
    """
    saved = checkpoint.get(KEY)
    if saved is None:
        return
    checkpoint.get("state_dict", {}).pop(NOTICE, None)
    if saved["format"] != FORMAT:
        raise CompressError(
            f"checkpoint: it has format {saved['format']!r}, and this version reads {FORMAT}; use the version of "
            f"lightning-compress that wrote it, or train again"
        )
    net = network(module)
    prefix = next((f"{name}." for name, child in module.named_modules() if child is net and name), "")
    applied, asked = ({name: Plan(plan) for name, plan in saved[key].items()} for key in ("applied", "asked"))
    present = structure_of(net)
    if present is not None:
        _check_same(present.applied, applied)
        if present.applied.keys() <= applied.keys():
            _drop_ended_noise(net, saved["transforms"])
    shapes = {
        ATTACHED.sub(r"\1", key.removeprefix(prefix)): value.shape
        for key, value in checkpoint["state_dict"].items()
        if key.startswith(prefix)
    }
    replacement.rebuild(net, saved["replaced"])
    profile = Profile.from_dict(saved["profile"])
    resize.resize(net, shapes, profile.conv_groups)
    if present is None:
        set_numbers(net, saved.get("numbers", {}))
    drop_calibration(net)
    transform_specs.rebuild(net, saved["transforms"])
    write_structure(net, Structure(profile, applied, asked))


def _drop_ended_noise(net: nn.Module, described: Mapping[str, Mapping[str, Any]]) -> None:
    """Take off the noise of an earlier stage that a later one, which wrote the checkpoint, took off."""
    for name, layer in transforms.transformed(net).items():
        if transforms.OUTPUT not in described.get(name, {}):
            transforms.drop_output(layer)


def _check_same(present: Mapping[str, Plan], saved: Mapping[str, Plan]) -> None:
    for name in present:
        if name in saved and present[name] != saved[name]:
            layer = next(k for k in {**saved[name].layers, **present[name].layers}
                         if saved[name].layers.get(k) != present[name].layers.get(k))  # fmt: skip
            raise CompressError(
                f"checkpoint: {name} was saved with {dict(saved[name].layers.get(layer, {}))} at layer {layer!r}, and "
                f"the plan now says {dict(present[name].layers.get(layer, {}))}. Resume with the plan of the checkpoint"
            )
