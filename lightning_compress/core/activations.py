"""Order in which a network writes and reads its activations, and how many values are alive at once.

An activation is alive from the operation that writes it to the last one that reads it. Views share the memory of what
they view; an activation function or batch norm works in place where nobody else reads its input; every other operation
writes new memory while its inputs are alive. That is the least memory that an interpreter needs which runs operations
one by one in this order, such as TFLite-Micro: its own planner can need more, never less.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

Values = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Step:
    """One operation, which writes one activation.

    Attributes:
        module: name of the innermost module that it runs in.
        inputs: numbers of the steps whose activations it reads; none for an input of the network. What the network
            returns is read by a last step without values.
        values: numbers of one sample, as pairs of a layer and the values for each of its output channels, or of what
            :func:`read_by` names and those for each of its input channels; "" for values that no width changes.
        pointwise: whether it can work in place on its only input.
    """

    module: str
    inputs: tuple[int, ...] = ()
    values: Values = ()
    pointwise: bool = False

    def size(self, widths: Mapping[str, int]) -> int:
        """Return how many values of one sample it writes, where names among the values stand for so many channels."""
        return sum(count * (widths[name] if name else 1) for name, count in self.values)

    def to_list(self) -> list[Any]:
        """Return plain types."""
        return [self.module, list(self.inputs), [list(pair) for pair in self.values], self.pointwise]

    @classmethod
    def from_list(cls, data: Sequence[Any]) -> Step:
        """Return the inverse of :meth:`to_list`."""
        module, inputs, values, pointwise = data
        return cls(module, tuple(inputs), tuple((name, count) for name, count in values), pointwise)


Steps = tuple[Step, ...]


def read_by(layer: str) -> str:
    """Return the name, among values, of the channels that a layer reads, where no layer gives them: heads."""
    return f"{layer} reads"


def peak_values(steps: Sequence[Step], widths: Mapping[str, int], scratch: Mapping[str, int] | None = None) -> int:
    """Return the most values of one sample that are alive at once.

    Args:
        steps: in the order in which they run.
        widths: how many channels each name among the values stands for.
        scratch: module -> values that it needs beside its activations while it runs.
    """
    sizes = [step.size(widths) for step in steps]
    alive = peak = 0
    for i, ended in enumerate(_ends(steps)):
        alive += sizes[i]
        peak = max(peak, alive + (scratch or {}).get(steps[i].module, 0))
        alive -= sum(sizes[j] for j in ended)
    return peak


def in_place(steps: Sequence[Step]) -> Steps:
    """Return the steps without those that work in place: they can, and nobody reads their input later."""
    ends = _ends(steps)
    return _without(steps, {i for i, step in enumerate(steps) if step.pointwise and step.inputs[0] in ends[i]})


def without(steps: Sequence[Step], modules: Collection[str]) -> Steps:
    """Return the steps after an identity takes the place of some modules."""
    prefixes = tuple(f"{name}." for name in modules)
    return in_place(_without(steps, {i for i, s in enumerate(steps) if f"{s.module}.".startswith(prefixes)}))


def chained(steps: Sequence[Step], layer: str, factors: Sequence[tuple[str, int]]) -> Steps:
    """Return the steps after a chain of layers takes the place of one.

    Args:
        steps: before.
        layer: that is replaced.
        factors: name, and values for each output channel, of each layer of the chain.
    """
    last = factors[-1][0]
    found: list[Step] = []
    number: list[int] = []
    for step in steps:
        renamed = tuple((last if name == layer else name, count) for name, count in step.values)
        inputs = tuple(number[i] for i in step.inputs)
        if step.module == layer and step.values and step.values[0][0] == layer:
            for name, count in factors[:-1]:
                found.append(Step(name, inputs, ((name, count),)))
                inputs = (len(found) - 1,)
            step = replace(step, module=last)
        number.append(len(found))
        found.append(replace(step, inputs=inputs, values=renamed))
    return tuple(found)


def _ends(steps: Sequence[Step]) -> list[list[int]]:
    """Return for each step the activations that nobody reads after it."""
    last = list(range(len(steps)))
    for i, step in enumerate(steps):
        for j in step.inputs:
            last[j] = i
    ends: list[list[int]] = [[] for _ in steps]
    for j, i in enumerate(last):
        ends[i].append(j)
    return ends


def _without(steps: Sequence[Step], gone: Collection[int]) -> Steps:
    """Drop steps; who read their activation reads their first input, whose layers stand in for dropped ones."""
    found: list[Step] = []
    number: list[int] = []
    stands_for: dict[str, tuple[Values, int]] = {}
    for i, step in enumerate(steps):
        if i in gone:
            number.append(number[step.inputs[0]])
            if len(step.values) == 1:
                name, count = step.values[0]
                source = found[number[-1]].values
                if name and count and (name, count) not in source:  # what got no rows stands for nothing
                    stands_for[name] = source, count
            continue
        inputs = tuple(dict.fromkeys(number[j] for j in step.inputs))
        number.append(len(found))
        found.append(replace(step, inputs=inputs, values=_renamed(step.values, stands_for)))
    return tuple(found)


def _renamed(values: Values, stands_for: Mapping[str, tuple[Values, int]]) -> Values:
    found: dict[str, int] = {}
    for name, count in values:
        source, whole = stands_for.get(name, (((name, count),), count))
        for other, per in source:
            found[other] = found.get(other, 0) + (per * count // whole if count else 0)
    return tuple(found.items())
