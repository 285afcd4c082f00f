"""OmegaConf resolvers that the configuration uses; imported before Hydra composes it, so without torch."""

import re
from zlib import crc32

from omegaconf import OmegaConf

LONGEST = 120  # file systems allow 255 bytes


def slug(overrides: str) -> str:
    """A folder name for a command line: the same overrides always give the same folder.

    >>> slug("+compress=drl_quant,data.path=/tmp/x.npz,seed=1")
    'compress=drl_quant,data.path=_tmp_x.npz,seed=1'
    """
    name = re.sub(r"[^\w=,.\-]+", "_", overrides.replace("+", "")) or "default"
    return name if len(name) <= LONGEST else f"{name[:LONGEST]}-{crc32(overrides.encode()):08x}"


def register() -> None:
    """Make ``${slug:...}`` known; calling it again changes nothing."""
    OmegaConf.register_new_resolver("slug", slug, replace=True)
