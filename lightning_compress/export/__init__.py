"""Files of finished networks: the packed file, and those of other runtimes.

The package can be called: ``lightning_compress.export(module, "net.tflite")`` is
:func:`lightning_compress.export.export_network.export`.
"""

import sys
from types import ModuleType

from lightning_compress.export.export_network import export


class _Package(ModuleType):
    __call__ = staticmethod(export)


sys.modules[__name__].__class__ = _Package
