"""OmegaConf resolvers that the configuration uses; imported before Hydra composes it, so without torch."""

import re

from omegaconf import OmegaConf


def slug(overrides: str) -> str:
    """A folder name for a command line: the same overrides always give the same folder.

    >>> slug("+compress=drl_quant,data.path=/tmp/x.npz,seed=1")
    'compress=drl_quant,data.path=_tmp_x.npz,seed=1'
    """
    return re.sub(r"[^\w=,.\-]+", "_", overrides.replace("+", "")) or "default"


def register() -> None:
    """Make ``${slug:...}`` known; calling it again changes nothing."""
    OmegaConf.register_new_resolver("slug", slug, replace=True)
