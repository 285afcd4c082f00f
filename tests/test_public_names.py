"""The names of ``import lightning_compress as lc``: found in the files, and told to type checkers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import lightning_compress as lc
from lightning_compress.callbacks.base.callback import CompressionCallback
from lightning_compress.callbacks.base.teacher import DistillationCallback
from lightning_compress.core.kinds import classes_of

STUB = Path(lc.__file__).with_suffix(".pyi")


def stub() -> str:
    """Return what ``__init__.pyi`` must be."""
    homes = sorted((f"lightning_compress.{home}", name) for name, home in lc._HOMES.items())
    lines = [f"from {home} import {name} as {name}\n" for home, name in homes]
    return "# Written by tests/test_public_names.py.\n" + "".join(lines)


def test_type_checkers_know_all_names():
    assert STUB.read_text() == stub(), "run: python tests/test_public_names.py"


def test_every_name_is_there_and_every_method_has_one():
    for name in lc.__all__:
        assert callable(getattr(lc, name)), name
    methods = [*classes_of(CompressionCallback), *classes_of(DistillationCallback)]
    shipped = [cls for cls in methods if cls.__module__.startswith("lightning_compress.callbacks.")]
    concrete = {cls.__name__ for cls in shipped if not cls.__module__.startswith("lightning_compress.callbacks.base.")}
    assert concrete <= set(lc.__all__)
    assert len(concrete) > 10


def test_importing_the_package_imports_neither_torch_nor_lightning():
    code = "import sys, lightning_compress; assert not {'torch', 'lightning'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


if __name__ == "__main__":
    STUB.write_text(stub())
