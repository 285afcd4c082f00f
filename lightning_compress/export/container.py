"""The container of a packed file: safetensors with a checksum, written whole or not at all, read without pickle.

The same network gives the same bytes. A checksum shows damage, not intent: what a file says is checked as if a stranger
had written it, and takes no more memory than the network that receives it could use.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from lightning_compress.core.atomic_write import atomic_write
from lightning_compress.core.errors import CompressError, PackedFileError
from lightning_compress.export import strict_json
from lightning_compress.export.header_dictionary import WORDS

FORMAT = "3"
NAME = "lightning_compress"
LARGEST_DESCRIPTION = 1 << 24  # bytes; some hundreds for a layer
LENGTH = 8  # bytes of the length of safetensors' header, before it


@contextmanager
def refusing(path: str | Path) -> Iterator[None]:
    """Turn whatever a damaged or hostile file leads to inside into a :class:`PackedFileError`.

    Raises:
        PackedFileError: in place of any other error.
    """
    try:
        yield
    except PackedFileError:
        raise
    except CompressError as error:
        raise PackedFileError(f"{str(path)!r} cannot be loaded: {error}") from error
    except Exception as error:  # what is wrong with a file is found where its values are used
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise PackedFileError(
            f"{str(path)!r} is damaged, or was made for another network ({what}); copy it again from where it came from"
        ) from error


def write(path: Path, tensors: Mapping[str, Tensor], contents: Mapping[str, Any]) -> None:
    """Write tensors and a description (plain types).

    Raises:
        PackedFileError: the folder is missing, read-only or full; a file that was there before is untouched.
    """
    text = json.dumps(contents, separators=(",", ":")).encode()
    packer = zlib.compressobj(9, zdict=WORDS)
    body = base64.b85encode(packer.compress(text) + packer.flush()).decode()
    metadata = {NAME: FORMAT, "contents": body, "checksum": checksum(tensors, body)}
    try:
        with atomic_write(path) as part:  # every process of a training may save its copy
            part.write_bytes(_ordered(to_bytes(dict(tensors), metadata)))
    except OSError as error:
        raise PackedFileError(f"cannot write {str(path)!r}: {error.strerror}; nothing was changed there") from error


def _ordered(content: bytes) -> bytes:
    """Return the same file with the keys of its header in order; safetensors writes metadata in a random one."""
    end = LENGTH + int.from_bytes(content[:LENGTH], "little")
    text = json.dumps(json.loads(content[LENGTH:end]), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    header = text.encode()
    header += b" " * (-len(header) % LENGTH)
    return len(header).to_bytes(LENGTH, "little") + header + content[end:]


def read(path: Path, largest: int = LARGEST_DESCRIPTION) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and description of a file.

    Args:
        path: of the file.
        largest: bytes that the description may have.

    Raises:
        PackedFileError: it is missing, foreign, from a newer version, truncated or corrupted.
    """
    if not path.is_file():
        raise PackedFileError(f"there is no file {str(path)!r}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise PackedFileError(
            f"{str(path)!r} is not a whole safetensors file ({error}): it is truncated, corrupted, or of another kind"
        ) from error
    if NAME not in metadata or not {"contents", "checksum"} <= metadata.keys():
        raise PackedFileError(
            f"{str(path)!r} was not written by lightning_compress.save; load it with safetensors.torch.load_file"
        )
    if checksum(tensors, metadata["contents"]) != metadata["checksum"]:
        raise PackedFileError(
            f"{str(path)!r} is corrupted: its checksum is wrong; copy it again from where it came from"
        )
    if metadata[NAME] != FORMAT:
        raise PackedFileError(
            f"{str(path)!r} has format {metadata[NAME]}, and this version reads {FORMAT}; use the version of "
            f"lightning-compress that wrote it, or save the network again with this one"
        )
    with refusing(path):
        if len(metadata) > 3:
            raise ValueError(f"metadata that nothing reads: {sorted(metadata)}")
        return tensors, strict_json.loads(_unpacked(metadata["contents"], largest))


def _unpacked(body: str, largest: int) -> bytes:
    unpacker = zlib.decompressobj(zdict=WORDS)
    text = unpacker.decompress(base64.b85decode(body), largest)
    if not unpacker.eof:
        raise ValueError(f"its description is cut short, or longer than the {largest} bytes that such a network needs")
    if unpacker.unused_data:
        raise ValueError("something stands behind its description")
    return text


def checksum(tensors: Mapping[str, Tensor], body: str) -> str:
    """Return 16 hex digits over all that a reader uses."""
    found = hashlib.sha256(body.encode())
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        found.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        if value.numel():
            found.update(value.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]  # an array is a buffer
    return found.hexdigest()[:16]
