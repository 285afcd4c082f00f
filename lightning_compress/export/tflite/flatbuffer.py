"""A TFLite model as bytes. The only file that knows flatbuffers and the schema's object API."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_compress.core.errors import CompressError

FILE_ID = b"TFL3"
ALIGNMENT = 16  # which the schema asks of data, and flatbuffers' own Pack does not give


def schema() -> Any:
    """Return the module with the schema's classes.

    Raises:
        CompressError: ai-edge-litert is not installed.
    """
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise CompressError(
            'export: .tflite files need ai-edge-litert; install it with pip install "lightning-compress[tflite]"'
        ) from error
    return schema_py_generated


def to_bytes(model: Any) -> bytes:
    """Return a ``ModelT`` as the bytes of a file; equal vectors are stored once."""
    import flatbuffers

    class Sharing(flatbuffers.Builder):
        def __init__(self) -> None:
            super().__init__(1 << 16)
            self.seen: dict[tuple[str, bytes], int] = {}

        def CreateNumpyVector(self, x: np.ndarray) -> int:
            key = (x.dtype.str, x.tobytes())
            if key not in self.seen:
                self.seen[key] = super().CreateNumpyVector(x)
            return self.seen[key]

    builder = Sharing()
    builder.Finish(model.Pack(builder), FILE_ID)
    return bytes(builder.Output())


def buffer_of(data: np.ndarray | None) -> Any:
    """Return a ``BufferT`` whose data starts on a multiple of 16 bytes."""
    s = schema()
    base: Any = s.BufferT

    class Aligned(base):
        def Pack(self, builder: Any) -> int:
            if self.data is not None:
                raw = self.data.tobytes()
                builder.StartVector(1, len(raw), ALIGNMENT)
                builder.head -= len(raw)
                builder.Bytes[builder.head : builder.head + len(raw)] = raw
                builder.vectorNumElems = len(raw)
                vector = builder.EndVector()
            s.BufferStart(builder)
            if self.data is not None:
                s.BufferAddData(builder, vector)
            return s.BufferEnd(builder)

    buffer = Aligned()
    buffer.data = data
    return buffer
