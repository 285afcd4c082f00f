"""Whether ONNX Runtime's integer sums are exact on this processor as they come.

Without VNNI, x86 adds two products in 16 bits, which saturate. The session option :data:`EXACT_SUMS` then takes kernels
that do not, at about the speed of float32. With VNNI sums are exact anyway; the option still takes the slower kernels
on some of these processors (ResNet-20 on AMD EPYC with AVX-512 VNNI and AVX-VNNI: 0.41 ms against 0.19 ms, all values
equal, ``benchmarks/deploy/without_vnni.py``). So two convolutions that would saturate are run, once in a process, and
the option is set where one does.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from lightning_compress.export.integer.graph import Conv, Graph, Grid, Tensor
from lightning_compress.export.onnx.write import onnx_bytes

EXACT_SUMS = ("session.x64quantprecision", "1")
LARGEST_EXACT = 64  # level of a weight with which sums never saturate: 2 x 255 x 64 < 2^15
CHANNELS, SIZE, LEVEL = 16, 6, 127
EXPECTED = 100  # steps, of every output
ERRORS_ONLY = 3


def one_thread() -> Any:
    """Return the ``SessionOptions`` of a session on one thread that says nothing but errors.

    Raises:
        ImportError: onnxruntime is not installed.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    return options


@cache
def saturates() -> bool:
    """Return whether sums saturate without :data:`EXACT_SUMS`.

    Raises:
        ImportError: onnxruntime is not installed.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx_bytes(probe()), one_thread(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": np.full((1, CHANNELS, SIZE, SIZE), 255, np.float32)})
    return bool((found.round() != EXPECTED).any())


def probe() -> Graph:
    """Return a pointwise and a 3x3 convolution, whose outputs are all :data:`EXPECTED` where the inputs are 255."""
    grid, last = Grid(1.0, 0, 255), (CHANNELS, SIZE - 2, SIZE - 2)
    shapes = {"x": (CHANNELS, SIZE, SIZE), "between": (CHANNELS, SIZE, SIZE), "y": last}
    tensors = {name: Tensor(name, shape, grid) for name, shape in shapes.items()}
    return Graph("x", "y", tensors, [_conv("x", "between", 1, 255), _conv("between", "y", 3, EXPECTED)])


def _conv(source: str, output: str, kernel: int, expected: int) -> Conv:
    """Return a convolution whose outputs are as expected where the inputs are 255."""
    weight = np.full((CHANNELS, CHANNELS, kernel, kernel), LEVEL, np.int8)
    scale = np.full(CHANNELS, expected / (255 * LEVEL * weight[0].size), np.float32)
    return Conv(output, (source,), output, weight, scale, np.zeros(CHANNELS, np.int32), 8)
