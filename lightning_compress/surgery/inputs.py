"""Find what goes into a network: the arguments with which the module's own steps call it.

A module may prepare its input (a spectrogram, a crop, a flattening), and a batch may be anything. So a step is run on a
batch of the user's until it calls the network, and what it calls it with is taken; nothing is assumed of the batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

from lightning import LightningModule
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_compress.core.errors import CompressError, first_line
from lightning_compress.surgery import measure
from lightning_compress.surgery._lightning import in_precision, on_device
from lightning_compress.surgery.dry_run import first_call
from lightning_compress.surgery.listed_samples import listed
from lightning_compress.surgery.structure import network, structure_of
from lightning_compress.surgery.tensors import map_tensors, parts_of, tensors_in

Mode = Literal["min_size", "max_size_cycle", "max_size", "sequential"]  # of CombinedLoader
SAMPLES = 2  # batch norms of 1x1 maps need more than one, and no figure depends on how many
STEPS = ("training_step", "validation_step", "test_step", "predict_step")


def first_tensor(batch: Any) -> Tensor | None:
    """Return the first tensor of a batch: the ``x`` of ``x, y = batch``; None when there is none."""
    if isinstance(batch, Tensor):
        return batch
    return first_tensor(next(iter(parts_of(batch).values()), None)) if parts_of(batch) else None


def small(example: Any, samples: int = SAMPLES) -> Any:
    """Return the first samples of an input batch: of all its tensors that have as many samples as the first.

    A list stays as it is, for it may be one of samples.
    """
    if listed(example):
        return example
    count = measure.samples_in(example)
    return map_tensors(lambda each: each[:samples] if each.dim() and len(each) == count else each, example)


def combined(loaders: Any, mode: Mode = "min_size") -> Iterable[Any]:
    """Return the batches of a loader, or of several as Lightning combines them.

    Args:
        loaders: one, or a list, tuple or dict of them, or Lightning's ``CombinedLoader``.
        mode: of ``CombinedLoader``, where they are not combined yet.
    """
    if not isinstance(loaders, list | tuple | dict | CombinedLoader):
        return loaders
    if not isinstance(loaders, CombinedLoader):
        loaders = CombinedLoader(loaders, mode)
    return (batch for batch, *_ in loaders)


def each_of(loaders: Any) -> list[Any]:
    """Return the loaders one by one, of what Lightning takes for one or several."""
    return loaders.flattened if isinstance(loaders, CombinedLoader) else tree_leaves(loaders)


def example_of(module: LightningModule, batches: Iterable[Any], step: str = "training_step") -> Any:
    """Return one small input batch of the network of a module.

    From the module's ``example_input_array``, which ``module.forward`` takes, else from the first batch.

    Args:
        module: is not changed.
        batches: are not read where the module has an example.
        step: the method that takes such batches; others are tried after it.

    Returns:
        A tensor, a tuple of positional arguments or a dict of keywords.

    Raises:
        CompressError: there is neither, or the network does not run on what was found.
    """
    example, where = module.example_input_array, "its example_input_array"
    if example is not None:
        example = _argument_of_network(module, in_precision(module, example))
    else:
        where = f"what {step} or another step calls it with, or on the first tensor of a batch"
        example = next(network_inputs(module, batches, step), None)
    if example is None:
        raise CompressError(
            f"no example input was found for {type(module).__name__}: set its example_input_array to what its forward "
            f"takes (for example torch.zeros(2, 3, 32, 32))"
        )
    example = small(example)
    if structure_of(network(module)) is None:  # else it has run
        _check_runs(module, example, where)
    return example


def _argument_of_network(module: LightningModule, example: Any) -> Any:
    """Return what ``module.forward`` passes to the network; the example itself if it calls none."""
    net = network(module)
    if net is module:
        return example
    found = first_call(module, net, lambda: measure.forward(module, example))
    return example if found is None else as_example(net, *found)


def _check_runs(module: LightningModule, example: Any, where: str) -> None:
    try:
        measure.forward_hooked(network(module), example, [])
    except CompressError:
        raise
    except Exception as error:  # whatever the network's own forward raises
        raise CompressError(
            f"{type(module).__name__}: its network does not run on {where} ({first_line(error)[:200]}); set "
            f"example_input_array to what {type(module).__name__}.forward takes"
        ) from error


def network_inputs(
    module: LightningModule, batches: Iterable[Any], step: str = "training_step", finite: bool = False
) -> Iterator[Any]:
    """Yield what the module's steps call its network with for each batch; the first call if there are several.

    A batch with which no step calls the network gives its first tensor.

    Args:
        module: its modes, flags and random numbers stay as they were.
        batches: as loaders give them.
        step: the method that takes such batches; the others are tried after it.
        finite: whether values that are not finite are refused.

    Yields:
        A tensor, a tuple of positional arguments or a dict of keywords.

    Raises:
        CompressError: the network is called in a way that cannot be repeated, or a value is not finite.
    """
    net, steps = network(module), [step, *(other for other in STEPS if other != step)]
    for number, batch in enumerate(batches):
        batch = on_device(module, batch)
        found = None
        for name in steps:
            call = step_of(module, name, batch, number)
            found = first_call(module, net, call, name == "training_step")
            if found is not None:
                steps = [name, *(other for other in steps if other != name)]
                break
        example = first_tensor(batch) if found is None else as_example(net, *found)
        if example is None:
            continue
        if finite and not all(tensor.isfinite().all() for tensor in tensors_in(example)):
            raise CompressError(f"data: the inputs of train batch {number} are not finite; clean the data")
        yield example


def step_of(module: LightningModule, name: str, batch: Any, number: int) -> Callable[[], Any]:
    """Return a call of a step on a batch; the step may or may not take the number of the batch, as in Lightning.

    Args:
        module: that has the step.
        name: of the step.
        batch: as the step gets it.
        number: of the batch.
    """
    method = getattr(module, name)
    takes_number = len(inspect.signature(method).parameters) > 1
    return lambda: method(batch, number) if takes_number else method(batch)


def as_example(net: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the arguments of a call as an example: a tensor, a tuple of positional arguments or a dict of keywords.

    Raises:
        CompressError: the call has both kinds, and the network takes some by position alone.
    """
    if not kwargs:
        return args[0] if len(args) == 1 and isinstance(args[0], Tensor) else args
    if not args:
        return kwargs
    bound = inspect.signature(net.forward).bind(*args, **kwargs)
    if not bound.kwargs:
        return bound.args
    kinds = {name: inspect.signature(net.forward).parameters[name].kind for name in bound.arguments}
    by_position = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY)
    if any(kind in by_position for kind in kinds.values()):
        raise CompressError(
            f"{type(net).__name__} is called with arguments by position and by keyword; give its forward named "
            f"parameters"
        )
    found: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        found |= value if kinds[name] is inspect.Parameter.VAR_KEYWORD else {name: value}
    return found
