"""Draw docs/_static/demo.svg from a run: python docs/make_picture.py docs/_static/demo_run.json.

The committed ``demo_run.json`` is the ``result.json`` of ``python train.py +compress=drl_quant seed=0`` at b51c036.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

OUT = Path(__file__).parent / "_static" / "demo.svg"
WIDTH, BAR, ROW = 640, 400, 44
STYLE = """<style>
text { font: 14px system-ui, sans-serif; fill: #24292f }
.note { fill: #57606a }
.dense { fill: #9aa4b2 }
.compressed { fill: #2f6feb }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .note { fill: #9aa4b2 } }
</style>"""


def picture(result: dict) -> str:
    """Return the SVG: one bar for the file of the dense network and one for that of the compressed one."""
    rows = []
    largest = result["dense"]["bytes"]
    for i, name in enumerate(("dense", "compressed")):
        figures, y = result[name], 14 + i * ROW
        width = max(BAR * figures["bytes"] / largest, 2)
        accuracy = 100 * figures["accuracy"]
        rows.append(
            f'<text x="0" y="{y + 17}">{name}</text>'
            f'<rect class="{name}" x="96" y="{y}" width="{width:.1f}" height="26" rx="3"/>'
            f'<text x="{96 + width + 8:.0f}" y="{y + 17}">{figures["bytes"]:,} bytes, {accuracy:.2f} %</text>'
        )
    ratio = largest / result["compressed"]["bytes"]
    note = f"{ratio:.1f}x smaller. ResNet-8 on handwritten digits, 359 test images (one is 0.28 points)."
    height = 14 + 2 * ROW + 24
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + 120} {height}" role="img" aria-label="{note}">'
        f'{STYLE}{"".join(rows)}<text class="note" x="0" y="{height - 8}">{note}</text></svg>\n'
    )


if __name__ == "__main__":
    OUT.write_text(picture(json.loads(Path(sys.argv[1]).read_text())))
