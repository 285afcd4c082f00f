"""Output error of single layers at each value of a knob, measured by running the compressed layer on dense inputs.

    r(v) = |f_v(x) - f(x)|^2 / |f(x)|^2,      f: the layer, f_v: with the knob at v, x: its inputs in the dense network
    error(v) = r / (1 - r)

Every layer sees the inputs of the dense network, so the error is the layer's own and adds up over layers to first
order. All layers are changed at once for each value, and each is run alone: as many copies of the network as there are
values, not as there are layers and values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_compress.core.plan import Number, Plan
from lightning_compress.core.space import Choice
from lightning_compress.pruning.channel_errors import even_error, noise_to_signal
from lightning_compress.surgery import measure
from lightning_compress.surgery.copies import clone
from lightning_compress.surgery.isolated_rng import isolated_rng
from lightning_compress.surgery.matrices import runs_in
from lightning_compress.surgery.tensors import tensors_in

Call = tuple[tuple[Any, ...], dict[str, Any], Any]  # arguments, keyword arguments, output


def record_calls(net: nn.Module, names: Sequence[str], batch: Any) -> dict[str, Call]:
    """Return the first call of each named module in a forward pass in eval mode, without those that do not run.

    Args:
        net: the dense network.
        names: of its modules.
        batch: one input batch of the network.
    """
    calls: dict[str, Call] = {}

    def recorder(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            calls.setdefault(name, (args, kwargs, output))

        return hook

    handles = [net.get_submodule(name).register_forward_hook(recorder(name), with_kwargs=True) for name in names]
    measure.forward_hooked(net, batch, handles)
    return calls


@torch.no_grad()
def relative_error(module: nn.Module, call: Call) -> float:
    """Return the squared error of a module's output relative to the recorded one; 1 where the shapes differ.

    Args:
        module: takes the place of the one that was recorded.
        call: arguments and output of that one.
    """
    args, kwargs, expected = call
    module.eval()
    found = _first_tensor(module(*args, **kwargs))
    expected = _first_tensor(expected)
    if found is None or expected is None or found.shape != expected.shape:
        return 1.0
    size = expected.double().square().sum()
    error = (found.double() - expected.double()).square().sum()
    return float(error / size) if size > 0 else float(error > 0)


def layer_errors(
    apply: Callable[[nn.Module, Plan], None], choices: Sequence[Choice], net: nn.Module, batch: Any
) -> list[list[float]]:
    """Return the noise-to-signal ratio of each choice's layer at each of its values.

    Args:
        apply: ``(network, plan)`` applies a plan to a copy of the network.
        choices: of one callback, whose layers can be changed all at once.
        net: the dense network; it is not changed.
        batch: one input batch of the network.
    """
    runs = {choice.layer: runs_in(net, choice.layer) for choice in choices}
    calls = record_calls(net, list(dict.fromkeys(runs.values())), batch)
    found: dict[tuple[str, str, Number], float] = {}
    for knob, value in sorted({(c.knob, value) for c in choices if len(c.values) > 1 for value in c.values}):
        able = [c.layer for c in choices if c.knob == knob and value in c.values and runs[c.layer] in calls]
        together = Counter(runs[layer] for layer in able)  # several matrices of one module share its error
        changed = clone(net)
        with isolated_rng():  # a quantizer may draw its first values
            apply(changed, Plan({layer: {knob: value} for layer in able}))
            for layer in able:
                name = runs[layer]
                error = output_error(changed.get_submodule(name), calls[name])
                found[layer, knob, value] = error / together[name]
    return [_errors_of(choice, found) for choice in choices]


def _errors_of(choice: Choice, found: Mapping[tuple[str, str, Number], float]) -> list[float]:
    """Return the errors of a choice; a layer that does not run on the batch counts, and no less than others."""
    shares = torch.tensor(choice.values, dtype=torch.float64) / choice.values[-1]
    even = dict(zip(choice.values, even_error(shares).tolist(), strict=True))
    return [found.get((choice.layer, choice.knob, value), even[value]) for value in choice.values]


def output_error(module: nn.Module, call: Call) -> float:
    """Return the noise-to-signal ratio of a module's output against the recorded one."""
    return float(noise_to_signal(torch.tensor(relative_error(module, call), dtype=torch.float64)))


def _first_tensor(output: Any) -> Tensor | None:
    return next(iter(tensors_in(output)), None)
