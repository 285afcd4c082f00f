"""Print the option with which the demo writes an .onnx file too, where ONNX Runtime is there to measure it."""

from __future__ import annotations

import sys
from importlib.util import find_spec

if all(find_spec(name) for name in ("onnx", "onnxruntime")):
    print("+compress/exporter=onnx")
else:
    print(
        'ONNX Runtime is not installed, so no latency is measured; pip install "lightning-compress[onnx]"',
        file=sys.stderr,
    )
