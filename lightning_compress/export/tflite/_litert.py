"""Hold what LiteRT has no public name for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter


def operators_of(interpreter: Interpreter) -> list[dict[str, Any]]:
    """Return the operators of a loaded file, each with its name and the numbers of the tensors it reads and writes."""
    return interpreter._get_ops_details()
