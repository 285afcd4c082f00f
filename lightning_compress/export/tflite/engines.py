"""Run .tflite files: in LiteRT with XNNPACK, and in TFLite-Micro, which counts the memory that it takes."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_compress.core.errors import CompressError
from lightning_compress.export.installed import installed_version
from lightning_compress.export.integer.emulate import to_levels
from lightning_compress.export.integer.graph import Grid
from lightning_compress.export.integer.rounding.zero_point import zero_point
from lightning_compress.export.least_time import least_milliseconds
from lightning_compress.export.tflite._litert import operators_of


def to_stored(levels: Tensor, grid: Grid) -> np.ndarray:
    """Return int8 numbers for levels, maps as (batch, height, width, channels)."""
    stored = (levels + zero_point(grid)).to(torch.int8)
    return to_nhwc(stored)


def from_stored(values: np.ndarray, grid: Grid | None) -> Tensor:
    """Return levels (int64) for int8 numbers, or float values as they are, in torch's layout."""
    found = torch.from_numpy(np.ascontiguousarray(values))
    found = found.permute(0, 3, 1, 2) if found.dim() == 4 else found
    return found if grid is None else found.long() - zero_point(grid)


def to_nhwc(x: Tensor) -> np.ndarray:
    """Return a tensor as an array, maps as (batch, height, width, channels)."""
    x = x.permute(0, 2, 3, 1) if x.dim() == 4 else x
    return np.ascontiguousarray(x.numpy())


ARENA = 1 << 26  # room enough: what is used of it is counted


def litert_version() -> str:
    """Return the name of LiteRT with its version.

    Raises:
        CompressError: it is not installed.
    """
    return installed_version("LiteRT", "ai-edge-litert", "tflite")


def stored_input(x: Tensor, grid: Grid | None) -> np.ndarray:
    """Return inputs as a file stores them: float values, or int8 numbers on a grid, maps with the channels last."""
    return to_nhwc(x) if grid is None else to_stored(to_levels(x, grid), grid)


class LiteRT:
    """A file in LiteRT, one thread, XNNPACK.

    Raises:
        CompressError: ai-edge-litert is not installed.
    """

    def __init__(self, content: bytes) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise CompressError(
                'export: running .tflite files needs ai-edge-litert: pip install "lightning-compress[tflite]"'
            ) from error
        self.version = litert_version()
        self.interpreter = Interpreter(model_content=content, num_threads=1)
        self.interpreter.allocate_tensors()
        given = self.interpreter.get_input_details()[0]
        self.input, self.one_by_one = given["index"], int(given["shape_signature"][0]) == 1
        self.output = self.interpreter.get_output_details()[0]["index"]

    def run(self, x: np.ndarray) -> np.ndarray:
        """Return the output for a batch as the file stores it; where it takes one sample at a time, one by one."""
        if self.one_by_one and len(x) > 1:
            return np.concatenate([self.run(sample[None]) for sample in x])
        self.interpreter.resize_tensor_input(self.input, x.shape)
        self.interpreter.allocate_tensors()
        self.interpreter.set_tensor(self.input, x)
        self.interpreter.invoke()
        return self.interpreter.get_tensor(self.output)

    def call(self, x: np.ndarray) -> Callable[[], object]:
        """Return what runs the file once on a batch, which is as the file stores it."""
        self.run(x)
        return self.interpreter.invoke

    def milliseconds(self, x: np.ndarray) -> float:
        """Return the least CPU time of a run."""
        return least_milliseconds(self.call(x))

    def parts(self) -> tuple[int, list[str]]:
        """Return the number of XNNPACK's parts, and the operators outside of them."""
        names = [details["op_name"] for details in operators_of(self.interpreter)]
        count = names.count("DELEGATE")
        return count, sorted(_outside(operators_of(self.interpreter))) if count else names


def _outside(operators: list[dict[str, Any]]) -> list[str]:
    """Return the operators whose output no delegate writes."""
    delegated = {int(i) for op in operators if op["op_name"] == "DELEGATE" for i in op["outputs"]}
    inside: set[int] = set(delegated)
    rest = [op for op in operators if op["op_name"] != "DELEGATE"]
    reads = {int(i) for op in operators if op["op_name"] == "DELEGATE" for i in op["inputs"]}
    for op in reversed(rest):
        outputs = {int(i) for i in op["outputs"]}
        if outputs & inside and not outputs & reads - delegated:
            inside |= {int(i) for i in op["inputs"]} - reads
    return [op["op_name"] for op in rest if not {int(i) for i in op["outputs"]} & inside]


class TFLiteMicro:
    """A file in TFLite-Micro's reference kernels.

    Raises:
        CompressError: tflite-micro is not installed.
    """

    def __init__(self, content: bytes, arena: int = ARENA) -> None:
        try:
            from tflite_micro.python.tflite_micro import runtime
        except ImportError as error:
            raise CompressError("export: running files as microcontrollers do needs tflite-micro (pip)") from error
        self.version = f"tflite-micro {metadata.version('tflite_micro')}"
        self.interpreter = runtime.Interpreter.from_bytes(content, arena_size=arena)

    def run(self, x: np.ndarray) -> np.ndarray:
        """Return the output for a batch, run one sample at a time."""
        found = []
        for sample in x:
            self.interpreter.set_input(sample[None], 0)
            self.interpreter.invoke()
            found.append(self.interpreter.get_output(0))
        return np.concatenate(found)
