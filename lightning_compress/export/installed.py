"""The versions of the runtimes that are installed: measurements are told with them."""

from __future__ import annotations

from importlib import metadata

from lightning_compress.core.errors import CompressError


def installed_version(runtime: str, package: str, extra: str) -> str:
    """Return the name of a runtime with its version.

    Args:
        runtime: its name.
        package: its distribution.
        extra: of this package that installs it.

    Raises:
        CompressError: it is not installed.
    """
    try:
        return f"{runtime} {metadata.version(package)}"
    except metadata.PackageNotFoundError as error:
        raise CompressError(
            f'{runtime} is needed to measure latency; pip install "lightning-compress[{extra}]"'
        ) from error
