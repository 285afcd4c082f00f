"""ONNX Runtime's integer sums on x86 without VNNI: saturating, exact, and weights of 7 bits, which need no exactness.

    python benchmarks/deploy/without_vnni.py

ResNet-20 with random weights (seed 0), grids from random inputs. Latencies are CPU time of one thread, the least of
interleaved runs. Outputs are compared with the exact emulation. On a processor with VNNI all of them are exact.
"""

from __future__ import annotations

import onnxruntime
import torch
from interleaved import interleaved

from lightning_compress.export.compared import machine
from lightning_compress.export.integer.completion import complete
from lightning_compress.export.integer.emulate import emulate
from lightning_compress.export.integer.lower import lower
from lightning_compress.export.integer.rounding.floating import FloatRounding
from lightning_compress.export.onnx.exact_sums import EXACT_SUMS, one_thread
from lightning_compress.export.onnx.write import onnx_bytes
from lightning_compress.vision.models.resnet_cifar import resnet20

ROUNDS, SAMPLES = 40, 64


def session(content: bytes, exact: bool) -> onnxruntime.InferenceSession:
    """Return a session on one thread, with exact sums or as the runtime's default is."""
    options = one_thread()
    if exact:
        options.add_session_config_entry(*EXACT_SUMS)
    return onnxruntime.InferenceSession(content, options)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net, x = resnet20().eval(), torch.randn(SAMPLES, 3, 32, 32)
    graphs = {bits: lower(complete(net, [x], weight_bits=bits), x) for bits in (8, 7)}
    sessions = {"float32": session(onnx_bytes(lower(net, x, integer=False)), exact=False)}
    for bits, graph in graphs.items():
        for exact in (False, True):
            name = f"{bits}-bit weights, {'exact' if exact else 'default'}"
            sessions[name] = run = session(onnx_bytes(graph), exact)
            found = torch.from_numpy(run.run(None, {"x": x.numpy()})[0]) / graph.grid(graph.output).scale
            steps = (found.round().long() - emulate(graph, x, FloatRounding())).abs()
            print(
                f"{name}: {100 * float((steps > 0).float().mean()):.1f} % of values differ, by {int(steps.max())} steps"
            )
    for batch in (1, 8):
        feed = {"x": x[:batch].numpy()}
        times = interleaved({name: (lambda s=s, feed=feed: s.run(None, feed)) for name, s in sessions.items()}, ROUNDS)
        print(f"batch {batch}:", ", ".join(f"{name} {time:.3f} ms" for name, time in times.items()))
    print(machine(), "ONNX Runtime", onnxruntime.__version__)


if __name__ == "__main__":
    main()
