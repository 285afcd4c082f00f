"""The container of a packed file: safetensors with a checksum, written whole or not at all, read without pickle."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from lightning_compress.core.atomic_write import atomic_write
from lightning_compress.core.errors import PackedFileError
from lightning_compress.export.header_dictionary import WORDS

FORMAT = "3"
NAME = "lightning_compress"


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
            part.write_bytes(to_bytes(dict(tensors), metadata))
    except OSError as error:
        raise PackedFileError(f"cannot write {str(path)!r}: {error.strerror}; nothing was changed there") from error


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and description of a file.

    Raises:
        PackedFileError: it is missing, foreign, from a newer version, truncated or corrupted.
    """
    if not path.is_file():
        raise PackedFileError(f"there is no file {str(path)!r}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
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
    unpacker = zlib.decompressobj(zdict=WORDS)
    return tensors, json.loads(unpacker.decompress(base64.b85decode(metadata["contents"])))


def checksum(tensors: Mapping[str, Tensor], body: str) -> str:
    """16 hex digits over all that a reader uses."""
    found = hashlib.sha256(body.encode())
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        found.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return found.hexdigest()[:16]
