"""Parameters that an optimizer does not decay, whatever its groups say.

Groups are split while the optimizer steps and are whole again afterwards: schedulers, checkpoints and the user see
those that ``configure_optimizers`` made, and a training resumes exactly.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer

WHOLE = "_whole"  # in a group that was split off: the group that it is part of, and all parameters of that


def keep_from_decay(optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Let the optimizer step with a weight decay of zero for these parameters, in each of its groups.

    Args:
        optimizer: is given hooks, which live as long as it.
        parameters: those that it does not hold do not matter.
    """
    exempt = {id(p) for p in parameters}

    def split(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        for group in list(optimizer.param_groups):
            held = group["params"]
            found = [p for p in held if id(p) in exempt]
            if found and group.get("weight_decay", 0):
                optimizer.param_groups.append({**group, "params": found, "weight_decay": 0.0, WHOLE: (group, held)})
                group["params"] = [p for p in held if id(p) not in exempt]

    optimizer.register_step_pre_hook(split)
    optimizer.register_step_post_hook(make_whole)


def make_whole(optimizer: Optimizer, *_: Any) -> None:
    """Put groups that are split for a step together again; nothing where none is."""
    for part in reversed(optimizer.param_groups):
        if WHOLE in part:
            group, group["params"] = part[WHOLE]
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if WHOLE not in group]
