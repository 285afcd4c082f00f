"""Plans as callbacks take them, and the names that they may use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from lightning_compress.core.errors import CompressError
from lightning_compress.core.plan import Plan
from lightning_compress.surgery.matrices import matrices
from lightning_compress.surgery.transforms import transformed


def as_plan(plan: Plan | str | Path | Mapping[str, Any] | None) -> Plan | None:
    """Return a plan from any of the forms that callbacks accept.

    Raises:
        CompressError: it is none of them, or the file holds no plan.
    """
    if plan is None or isinstance(plan, Plan):
        return plan
    if isinstance(plan, Mapping):
        return Plan(plan)
    if not isinstance(plan, str | Path):
        raise CompressError(
            f"plan: must be a Plan, a YAML file or a mapping {{layer: {{knob: number}}}}, got {plan!r}; for one number "
            f"in all layers take lightning_compress.uniform_plan(module, example, callbacks=[...], KNOB=NUMBER)"
        )
    return Plan.load(plan)


def plan_names(net: nn.Module) -> set[str]:
    """Return the names that a plan may use: modules of the network but the transforms attached, and single matrices."""
    own = {id(t) for layer in transformed(net).values() for t in layer.modules() if t is not layer}
    modules = {name: module for name, module in net.named_modules() if id(module) not in own}
    inside = {f"{name}.{key}" if name else key for name, module in modules.items() for key in matrices(module)}
    return {name for name in modules if name} | inside
