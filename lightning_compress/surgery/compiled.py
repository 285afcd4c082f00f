"""Detect compiled modules, which do not see hooks that come or go later."""

from __future__ import annotations

from torch import nn


def is_compiled(module: nn.Module) -> bool:
    """Return whether ``torch.compile`` or ``Module.compile`` was applied to a module, or to a part of it."""
    return getattr(module, "_compiler_ctx", None) is not None or any(  # Lightning's, of a module that was unwrapped
        part._compiled_call_impl is not None or hasattr(part, "_orig_mod") for part in module.modules()
    )
