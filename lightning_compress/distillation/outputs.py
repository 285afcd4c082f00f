"""Find the tensor to distill in what a network or layer returns: a tensor, tuple, dict, dataclass or ModelOutput."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from lightning_compress.core.errors import CompressError, did_you_mean
from lightning_compress.surgery.tensors import parts_of

Select = str | int | Callable[[Any], Tensor] | None
LOGITS = "logits"  # the field of class scores by the convention of Hugging Face and torchvision
FEATURES = "last_hidden_state"


def select_tensor(output: Any, select: Select = None, usual: str = LOGITS, owner: str = "the network") -> Tensor:
    """Return the tensor of an output that a loss compares.

    Args:
        output: of a network or layer; a tensor is returned as it is, unless ``select`` is a function.
        select: a field, key or index, or a function of the output; None takes the obvious one: the field ``usual``,
            else the only floating-point tensor of two dimensions or more.
        usual: the name of that field.
        owner: who gave the output, for errors.

    Raises:
        CompressError: there is no such part, it is no tensor, or none is obvious; the message names the fields.
    """
    if callable(select):
        output = select(output)
    if isinstance(output, Tensor):
        return output
    parts = parts_of(output)
    if select is not None and not callable(select):
        return _named(parts, str(select), output, owner)
    if isinstance(parts.get(usual), Tensor):
        return parts[usual]
    scores = [part for part in parts.values() if _has_scores(part)]
    if len(scores) == 1:
        return scores[0]
    raise CompressError(
        f"distillation: {owner} returns a {type(output).__name__} with {_fields(parts)}, and which of them to compare "
        f"is not known; pass select=, such as select={next(iter(parts), usual)!r}"
    )


def _named(parts: dict[str, Any], name: str, output: Any, owner: str) -> Tensor:
    index = int(name) if name.lstrip("-").isdigit() and name not in parts else None
    found = parts.get(name) if index is None else dict(enumerate(parts.values())).get(index % max(len(parts), 1))
    if isinstance(found, Tensor):
        return found
    what = "no tensor" if name in parts else "no part"
    raise CompressError(
        f"distillation: select is {name!r}, and {owner} returns a {type(output).__name__} with {what} of that name but "
        f"{_fields(parts)}{did_you_mean(name, parts)}"
    )


def _has_scores(part: Any) -> bool:
    return isinstance(part, Tensor) and part.is_floating_point() and part.dim() > 1


def _fields(parts: dict[str, Any]) -> str:
    described = [
        f"{name} {tuple(part.shape)}" if isinstance(part, Tensor) else f"{name} ({type(part).__name__})"
        for name, part in parts.items()
    ]
    return f"the parts {', '.join(described)}" if described else "no parts"
