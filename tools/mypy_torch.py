"""A plugin of mypy for torch: an attribute that a module has at run time only is of any type.

torch declares ``nn.Module.__getattr__`` to return ``Tensor | Module``, which is wrong for ``kernel_size``, and
would need a cast at every use.
"""

from __future__ import annotations

from collections.abc import Callable

from mypy.plugin import AttributeContext, Plugin
from mypy.types import AnyType, Type, TypeOfAny, UnionType


class TorchAttributes(Plugin):
    """Reads what only ``nn.Module.__getattr__`` finds as ``Any``; declared attributes keep their types."""

    def get_attribute_hook(self, fullname: str) -> Callable[[AttributeContext], Type] | None:
        """Return the hook for attributes of ``nn.Module`` that its class does not declare."""
        return _any if fullname.startswith("torch.nn.modules.module.Module.") else None


def _any(context: AttributeContext) -> Type:
    # A declared attribute, such as `training`, comes here too; only those of __getattr__ are a union.
    found = context.default_attr_type
    undeclared = isinstance(found, UnionType) and "torch._tensor.Tensor" in str(found)
    return AnyType(TypeOfAny.special_form) if undeclared else found


def plugin(version: str) -> type[Plugin]:
    """Return the plugin; mypy calls this."""
    return TorchAttributes
