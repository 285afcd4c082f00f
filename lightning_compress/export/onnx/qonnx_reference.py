"""Run QONNX files in ONNX's reference implementation, with the operator Quant of QONNX's specification."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_compress.export.onnx.builder import onnx_package

DOMAIN = "qonnx.custom_op.general"


def quantized(x: Any, scale: Any, zero_point: Any, bits: Any, signed: int = 1, narrow: int = 0) -> Any:
    """Return what Quant gives: values rounded half to even and clipped to the levels of so many bits.

    Source: QONNX's specification, docs/qonnx-custom-ops/quant_op.md.
    """
    low = -(2.0 ** (bits - 1)) + narrow if signed else 0.0 * bits
    high = 2.0 ** (bits - 1) - 1 if signed else 2.0**bits - 1 - narrow
    levels = np.clip(np.rint(x / scale + zero_point), low, high)
    return np.asarray((levels - zero_point) * scale, np.float32)


def run_qonnx(content: bytes, x: Tensor) -> Tensor:
    """Return the output of a file for a batch.

    Args:
        content: bytes of the file.
        x: a few samples: this implementation is for checks, and slow.

    Raises:
        CompressError: onnx is not installed.
    """
    onnx = onnx_package()
    from onnx import reference
    from onnx.reference.op_run import OpRun

    class Quant(OpRun):
        op_domain = DOMAIN

        def _run(
            self, x: Any, scale: Any, zero_point: Any, bits: Any, signed: int = 1, narrow: int = 0,
            rounding_mode: str = "ROUND",
        ) -> tuple[Any]:  # fmt: skip
            return (quantized(x, scale, zero_point, bits, signed, narrow),)

    class ConvTranspose(OpRun):
        """With groups, onnx's own gives other values, or fails."""

        def _run(
            self, x: Any, weight: Any, bias: Any, dilations: Any = None, group: Any = None, output_padding: Any = None,
            pads: Any = None, strides: Any = None, **_: Any,
        ) -> tuple[Any]:  # fmt: skip
            a, b, c = (torch.from_numpy(np.array(array)) for array in (x, weight, bias))
            found = F.conv_transpose2d(a, b, c, strides, pads[:2], output_padding, group, dilations)
            return (found.numpy(),)

    model = onnx.load_model_from_string(content)
    evaluator = reference.ReferenceEvaluator(model, new_ops=[Quant, ConvTranspose])
    (y,) = evaluator.run(None, {model.graph.input[0].name: x.numpy()})
    return torch.from_numpy(np.ascontiguousarray(y))
