"""Compress a trained LightningModule to a budget, and pack it into a file that is really that small.

The names below load what they need at first use, so that ``import lightning_compress`` (which Hydra does at every start
of every application, to read ``lightning_compress.conf``) imports neither torch nor lightning. The methods are found by
looking at the files of ``callbacks/``: a new one needs no line here. ``__init__.pyi`` tells type checkers the same;
write it with ``python tests/test_public_names.py``.
"""

import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

_METHOD = re.compile(r"^@final\nclass (\w+)\(", re.MULTILINE)
_HOMES = {
    "CompressError": "core.errors",
    "CompressibleMixin": "callbacks.base.mixin",
    "Plan": "core.plan",
    "Result": "pipeline.result",
    "compress": "pipeline.compress",
    "export": "export.export_network",
    "inspect": "export.load",
    "inspect_layers": "pipeline.layers",
    "load": "export.load",
    "plan_env": "pipeline.environment",
    "save": "export.save",
    "uniform_plan": "pipeline.layers",
    **{
        name: f"callbacks.{file.stem}"
        for file in sorted((Path(__file__).parent / "callbacks").glob("*.py"))
        for name in _METHOD.findall(file.read_text(encoding="utf-8"))
    },
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = import_module(f"{__name__}.{_HOMES[name]}")
    # ``export`` is a folder and a function: the folder can be called. As a function alone it would hide its files.
    return sys.modules.get(f"{__name__}.{name}") or getattr(found, name)
