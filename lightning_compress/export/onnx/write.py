"""A network as the bytes of an .onnx file: from its graph, or where it has none by torch's own exporter."""

from __future__ import annotations

import io
import logging
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from lightning_compress.core.errors import CompressError, first_line
from lightning_compress.export.integer.graph import Graph
from lightning_compress.export.onnx.builder import IR_VERSION, OPSET, Builder, onnx_package
from lightning_compress.export.onnx.operators import write
from lightning_compress.export.onnx.widen import widened


def onnx_bytes(graph: Graph) -> bytes:
    """Return the file of a graph, with QuantizeLinear and DequantizeLinear nodes where it is in integers.

    Convolutions get the numbers of channels for which ONNX Runtime is fastest, see :func:`widened`.

    Raises:
        NoIntegerFormError: an operation has no form in the format.
        CompressError: onnx is not installed.
    """
    return written(Builder(widened(graph)))


def written(builder: Builder) -> bytes:
    """Return the file that a builder makes of its graph."""
    builder.put(builder.graph.input, "x")
    for operation in builder.graph.operations:
        write(operation, builder)
    return builder.bytes()


def torch_onnx_bytes(net: nn.Module, x: Tensor) -> bytes:
    """Return the file that torch's exporter makes of a network in floating point, without metadata.

    Args:
        net: a plain network.
        x: one input batch.

    Raises:
        CompressError: onnxscript is not installed, or torch cannot export the network.
    """
    onnx = onnx_package()
    found = io.BytesIO()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            program: Any = torch.onnx.export(
                net, (x[:2],), dynamo=True, opset_version=OPSET, verbose=False,
                dynamic_shapes=({0: torch.export.Dim("batch")},), input_names=["x"], output_names=["output"],
            )  # fmt: skip
            program.save(found)
    except ImportError as error:
        raise CompressError(
            f"export: this network needs torch's exporter, and that needs onnxscript ({error}); install it with "
            f'pip install "lightning-compress[onnx]"'
        ) from error
    except Exception as error:
        raise CompressError(f"export: torch cannot export {type(net).__name__} to ONNX: {first_line(error)}") from error
    model = onnx.load_model_from_string(found.getvalue())
    model.ir_version = IR_VERSION
    model.producer_name, model.doc_string = "lightning-compress", ""
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        value.ClearField("metadata_props")
    model.graph.ClearField("value_info")
    model.graph.ClearField("metadata_props")
    model.ClearField("metadata_props")
    return model.SerializeToString(deterministic=True)
