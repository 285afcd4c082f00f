"""Run single layers in ONNX Runtime, to time them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lightning_compress.core.profile import LayerProfile
from lightning_compress.export.layer_graph import layer_graph
from lightning_compress.export.onnx.session import Session
from lightning_compress.export.onnx.widen import INPUTS, fast_channels
from lightning_compress.export.onnx.write import onnx_bytes


def layer_call(layer: LayerProfile, integer: bool) -> Callable[[], object]:
    """Return what runs a layer alone, on one sample and one thread; its weights are random.

    In integers a convolution has the channels that it would have inside a network, see :func:`widened`; one that reads
    fewer than :data:`INPUTS` channels is taken to read the network's input.

    Args:
        layer, integer: see :func:`~lightning_compress.export.layer_graph.layer_graph`.

    Raises:
        CompressError: it is a layer that cannot be timed, or the runtime is not installed.
    """
    if integer and layer.kind == "conv" and layer.groups == 1:
        inputs = INPUTS if layer.in_channels < INPUTS else fast_channels(layer.in_channels)
        layer = replace(layer, in_channels=inputs, out_channels=fast_channels(layer.out_channels))
    graph, x = layer_graph(layer, integer)
    return Session(onnx_bytes(graph)).call(x)
