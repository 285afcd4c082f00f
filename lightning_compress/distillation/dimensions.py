"""Find the classes or channels of a tensor: at dimension 1, as torch has them, or last, as networks of tokens do.

Of three dimensions both are usual, ``(batch, classes, positions)`` along a signal and ``(batch, tokens, classes)``, and
nothing in a tensor says which it is; so a loss asks.
"""

from __future__ import annotations

from torch import Tensor

from lightning_compress.core.errors import CompressError


def check_dim(dim: int | None, owner: str) -> None:
    """Raise for a setting that is no dimension of classes or channels.

    Args:
        dim: the setting.
        owner: of it.

    Raises:
        CompressError: it is neither None nor a whole number other than 0, which is the batch.
    """
    if dim is not None and (isinstance(dim, bool) or not isinstance(dim, int) or dim == 0):
        raise CompressError(
            f"{owner}: dim must be the dimension of classes or channels, such as 1 or -1, or None, got {dim!r}"
        )


def found_dim(x: Tensor, dim: int | None, owner: str, what: str) -> int:
    """Return the dimension of the classes or channels of a tensor, 1 or more.

    Args:
        x: of two dimensions or more, the batch first.
        dim: a setting; None for the only usual one, which is 1 but for tensors of three dimensions.
        owner: of the setting.
        what: is there, for errors.

    Raises:
        CompressError: it is not known, or there is no such dimension.
    """
    if dim is None and x.dim() == 3:
        raise CompressError(
            f"{owner}: outputs of shape {tuple(x.shape)} may have their {what} last, as (batch, tokens, {what}), or at "
            f"dimension 1, as (batch, {what}, positions); say which: {owner}(dim=-1) or {owner}(dim=1)"
        )
    found = 1 if dim is None else dim + x.dim() * (dim < 0)
    if not 1 <= found < x.dim():
        raise CompressError(
            f"{owner}: outputs of shape {tuple(x.shape)} have no {what} at dimension {found if dim is None else dim}"
        )
    return found
