"""Run a step of a module, or its part up to the first call of the network, outside of any Trainer's loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning import LightningModule
from torch import nn

from lightning_compress.surgery.forward_calls import seen_by_hooks
from lightning_compress.surgery.isolated_rng import isolated_rng
from lightning_compress.surgery.kept_state import kept_state

Call = tuple[tuple[Any, ...], dict[str, Any]]


class _Reached(BaseException):
    """Ends a step where it calls the network; no ``except Exception`` of the user's stops it."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.call = args, kwargs


def first_call(
    module: LightningModule, net: nn.Module, run: Callable[[], Any], train: bool = False
) -> Call | None:  # fmt: skip
    """Return the arguments with which ``run()`` first calls a network; None if it fails before, or does not.

    Args:
        module: that owns the network; modes, flags, logs, buffers, metrics and random numbers stay as they were.
        net: the network, which does not run.
        run: a step or the forward pass of the module.
        train: whether the module is in training mode meanwhile.
    """

    def stop(_net: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _Reached(args, kwargs)

    handle = net.register_forward_pre_hook(stop, prepend=True, with_kwargs=True)
    try:
        eager = torch.compiler.set_stance("force_eager")
        with outside_of_loops(module, train, net), torch.no_grad(), seen_by_hooks(net), eager:
            run()
    except _Reached as reached:
        return reached.call
    except Exception:  # the step needs more than a batch
        return None
    finally:
        handle.remove()
    return None


@contextmanager
def outside_of_loops(module: LightningModule, train: bool, still: nn.Module | None = None) -> Iterator[None]:
    """Give a step what it asks of the loop that runs it, and restore everything but gradients afterwards.

    Args:
        module: whose step is run inside.
        train: whether it is in training mode meanwhile.
        still: a part that does not run.
    """
    idle = set() if still is None else set(still.modules())
    modes = {part: part.training for part in module.modules()}
    flags = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    stubs: dict[str, Any] = dict.fromkeys(("log", "log_dict", "toggle_optimizer", "untoggle_optimizer"), _ignored)
    if not module.automatic_optimization:
        stubs["optimizers"] = lambda use_pl_optimizer=True: _optimizers(module)
    own = {name: module.__dict__[name] for name in stubs if name in module.__dict__}
    module.train(train)
    try:
        module.__dict__.update(stubs)
        with isolated_rng(), kept_state(part for part in modes if part not in idle):
            yield
    finally:
        for name in stubs:
            module.__dict__.pop(name, None)
        module.__dict__.update(own)
        for part, mode in modes.items():
            part.training = mode
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _ignored(*_: Any, **__: Any) -> None:
    """Take a log or a switch of gradients, of which there is no loop yet."""


def _optimizers(module: LightningModule) -> Any:
    """Return those of a module that optimizes manually, as ``self.optimizers()`` gives them."""
    found = module.configure_optimizers()
    if isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], list):  # with schedulers
        found = found[0]
    found = [each["optimizer"] if isinstance(each, dict) else each for each in _listed(found)]
    return found[0] if len(found) == 1 else found


def _listed(found: Any) -> list[Any]:
    return list(found) if isinstance(found, list | tuple) else [found]
