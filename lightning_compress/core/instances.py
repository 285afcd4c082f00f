"""Check that an argument is an object of its class: the name of one and the class itself are common slips."""

from __future__ import annotations

from lightning_compress.core.errors import CompressError


def check_instances(owner: str, **arguments: tuple[object, type]) -> None:
    """Raise unless each argument is an object of its class.

    Args:
        owner: who takes the arguments.
        arguments: name -> value and class; None, the default of an argument, is not checked.

    Raises:
        CompressError: one is not; the message says what was got and what to write.
    """
    for name, (value, expected) in arguments.items():
        if value is not None and not isinstance(value, expected):
            raise _error(owner, name, value, expected)


def _error(owner: str, name: str, value: object, expected: type) -> CompressError:
    folder = expected.__module__.rpartition(".")[0]
    kind = f"an object of {expected.__name__} or of a class derived from it (see {folder})"
    if isinstance(value, type):
        remedy = f"; write {value.__name__}()" if issubclass(value, expected) else ""
        return CompressError(f"{owner}: {name} must be {kind}, got the class {value.__name__}{remedy}")
    return CompressError(f"{owner}: {name} must be {kind}, got {type(value).__name__} {value!r}")
