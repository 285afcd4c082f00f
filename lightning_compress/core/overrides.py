"""Overrides of a configuration, as they are typed, without what composes them."""

from __future__ import annotations

from collections.abc import Iterable

from lightning_compress.core.errors import CompressError


def check_groups(overrides: Iterable[str]) -> None:
    """Raise if a group of options is set to null, which Hydra ends in an error of its own code.

    Raises:
        CompressError: it is so.
    """
    for override in overrides:
        group, _, option = override.lstrip("+").partition("=")
        if "/" in group and option == "null":  # keys of values have no slash
            raise CompressError(f"{override}: a group has options and cannot be null; leave it out with '~{group}'")
