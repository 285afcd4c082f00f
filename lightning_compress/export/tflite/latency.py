"""Latency in LiteRT, in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from lightning_compress.core.profile import LayerProfile
from lightning_compress.export.deployable import Deployable
from lightning_compress.export.integer.graph import Graph
from lightning_compress.export.integer.marked import NoIntegerFormError
from lightning_compress.export.layer_graph import layer_graph
from lightning_compress.export.least_time import least_milliseconds
from lightning_compress.export.onnx.latency import Latency
from lightning_compress.export.tflite.engines import LiteRT, litert_version, stored_input
from lightning_compress.export.tflite.write import tflite_bytes


@dataclass(frozen=True)
class LiteRTLatency(Latency):
    """Milliseconds of one sample on one thread of LiteRT with XNNPACK, otherwise as in ONNX Runtime.

    XNNPACK's kernels for x86 compute 16 output channels at once in float32.
    """

    name: ClassVar[str] = "litert_latency"
    label: ClassVar[str] = "LiteRT's latency estimated from layers"

    @override
    def runtime(self) -> str:
        return litert_version()

    @override
    def time_network(self, found: Deployable, x: Tensor) -> float:
        if found.graph is None:
            raise NoIntegerFormError(f"latency: .tflite files cannot hold this network: {found.reason}")
        return least_milliseconds(_call(found.graph, x[:1]))

    @override
    def layer_call(self, layer: LayerProfile) -> Callable[[], object]:
        return _call(*layer_graph(layer, self.integer))


def _call(graph: Graph, x: Tensor) -> Callable[[], object]:
    return LiteRT(tflite_bytes(graph, int4=False)).call(stored_input(x, graph.tensors[graph.input].grid))
