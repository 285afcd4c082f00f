"""OmegaConf resolvers that the configuration uses; imported before Hydra composes it, so without torch."""

import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

from omegaconf import OmegaConf

LONGEST = 120  # file systems allow 255 bytes


def slug(overrides: str) -> str:
    """Return a folder name for a command line: the same overrides always give the same folder.

    It has neither ``=`` nor a comma, so that it can be typed behind an override: ``plan=runs/NAME/plan.yaml``.

    >>> slug("+compress=drl_quant,data.path=/tmp/x.npz,seed=1")
    'compress-drl_quant+data.path-_tmp_x.npz+seed-1'
    """
    name = re.sub(r"[^\w=,.\-]+", "_", overrides.replace("+", "")) or "default"
    name = name.replace("=", "-").replace(",", "+")
    return name if len(name) <= LONGEST else f"{name[:LONGEST]}-{crc32(overrides.encode()):08x}"


def density_of(pattern: Mapping[str, Any], usual: float) -> float:
    """Return the density of a uniform plan: the only one that an N:M pattern can have, else the usual one.

    >>> density_of({"n": 2, "m": 4}, 0.2), density_of({}, 0.2)
    (0.5, 0.2)
    """
    return pattern["n"] / pattern["m"] if {"n", "m"} <= pattern.keys() else usual


def without(section: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return a section of a configuration without one of its keys.

    >>> without({"epochs": 10, "lr": 0.1}, "epochs")
    {'lr': 0.1}
    """
    return {name: value for name, value in section.items() if name != key}


def program() -> str:
    """Return what the user types before the overrides, such as ``python train.py`` or ``lightning-compress run``."""
    name = Path(sys.argv[0]).name
    return f"python {name}" if name.endswith(".py") else f"{name} run"


def command_line() -> str:
    """Return the whole command of this process, as the user can repeat it."""
    overrides = sys.argv[1:]
    first = program()
    return f"{first} {shlex.join(overrides[1:] if first.endswith(' run') else overrides)}".rstrip()


def register() -> None:
    """Make the resolvers known under their names; calling it again changes nothing."""
    for resolver in (slug, density_of, without, program):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
