"""Files of finished networks: the packed file, and those of other runtimes.

The package can be called: ``lightning_compress.export(module, "net.tflite")`` is
:func:`lightning_compress.export.export_network.export`.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Package(ModuleType):
    def __call__(self, *args: Any, **settings: Any) -> Any:
        # Imported at the first call: loading a packed file needs no writer of other formats, and no Lightning.
        return import_module(f"{__name__}.export_network").export(*args, **settings)


sys.modules[__name__].__class__ = _Package
