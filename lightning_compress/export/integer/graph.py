"""The graph that all writers of deployment formats read: tensors, grids and operations as plain data.

Tensors are laid out as in torch (batch, channels, height, width). A tensor on a grid holds integer levels, of which
level 0 stands for 0.0, so that there are no zero points here: each writer adds the one that its format wants.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lightning_compress.core.activations import Step, in_place, peak_values
from lightning_compress.core.errors import CompressError

Array = np.ndarray
Bounds = tuple[float | None, float | None]
UNBOUNDED: Bounds = (None, None)


@dataclass(frozen=True)
class Grid:
    """Levels ``low`` to ``high``, each standing for ``level * scale``.

    Attributes:
        scale: a float32 value, since files hold those.
    """

    scale: float
    low: int
    high: int

    def limits(self, bounds: Bounds) -> tuple[int, int]:
        """Return the levels to which an activation function with these bounds clips."""
        low, high = bounds
        return (
            self.low if low is None else max(self.low, round(low / self.scale)),
            self.high if high is None else min(self.high, round(high / self.scale)),
        )


@dataclass(frozen=True)
class Tensor:
    """One activation.

    Attributes:
        shape: of one sample, without the batch.
        grid: None for float32.
    """

    name: str
    shape: tuple[int, ...]
    grid: Grid | None = None

    @property
    def elements(self) -> int:
        """Number of values of one sample."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def bytes(self) -> int:
        """Bytes of one sample: one a value on a grid, else four."""
        return self.elements * (4 if self.grid is None else 1)


@dataclass(frozen=True)
class Operation:
    """One kernel.

    Attributes:
        module: name of the torch module that it comes from.
        inputs, output: names of tensors.
    """

    module: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class Weighted(Operation):
    """A kernel with a weight.

    Attributes:
        weight: int8 levels or float32, torch's layout, output channels first.
        scale: float32, one per output channel; None for a float32 weight.
        bias: int32 in units of input scale x weight scale, or float32; ``(out,)``.
        bits: of a level.
        bounds: of the activation function behind it.
    """

    weight: Array
    scale: Array | None
    bias: Array
    bits: int = 32
    bounds: Bounds = UNBOUNDED

    @property
    def scales(self) -> Array:
        """The scales of an integer weight.

        Raises:
            CompressError: the weight is float32.
        """
        if self.scale is None:
            raise CompressError(f"export: the weight of {self.module!r} is float32; this is a fault, please report it")
        return self.scale


@dataclass(frozen=True)
class Conv(Weighted):
    """Two-dimensional convolution; ``padding`` is top, bottom, left, right."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def depthwise(self) -> bool:
        """Whether each input channel has filters of its own."""
        return self.groups > 1 and self.weight.shape[1] == 1


@dataclass(frozen=True)
class ConvTranspose(Weighted):
    """Two-dimensional transposed convolution with a weight of shape ``(out, in / groups, rows, columns)``.

    Attributes:
        padding: rows cut off at top and bottom, columns cut off left and right.
        output_padding: rows more at the bottom, columns more on the right.
    """

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    output_padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


@dataclass(frozen=True)
class Linear(Weighted):
    """Matrix product with a weight of shape ``(out, in)``."""


@dataclass(frozen=True)
class Add(Operation):
    """Sum of two tensors of one shape, each with its own grid."""

    bounds: Bounds = UNBOUNDED


@dataclass(frozen=True)
class Multiply(Operation):
    """Product of two tensors, the second of which may have height and width 1."""

    bounds: Bounds = UNBOUNDED


@dataclass(frozen=True)
class Sigmoid(Operation):
    """Logistic function; its grid is 0 to 255 in steps of 1/256."""


@dataclass(frozen=True)
class HardSwish(Operation):
    """``x * relu6(x + 3) / 6``."""


@dataclass(frozen=True)
class Concat(Operation):
    """Concatenation over channels; all tensors have one grid."""


@dataclass(frozen=True)
class AveragePool(Operation):
    """Mean over windows without padding; the output keeps the grid."""

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class MaxPool(Operation):
    """Maximum over windows; the output keeps the grid, and ``padding`` (top, bottom, left, right) never wins."""

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(frozen=True)
class Reshape(Operation):
    """To the shape of the output tensor."""


@dataclass(frozen=True)
class Pad(Operation):
    """Zeros around the map: ``padding`` is top, bottom, left, right."""

    padding: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(frozen=True)
class Clip(Operation):
    """An activation function on its own; the output keeps the grid."""

    bounds: Bounds = UNBOUNDED


@dataclass(frozen=True)
class Requantize(Operation):
    """From one grid to another."""


@dataclass
class Graph:
    """Tensors and operations in the order in which they run.

    Attributes:
        input, output: names of tensors.
        notes: what was changed to fit, as sentences for a report.
    """

    input: str
    output: str = ""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def grid(self, name: str) -> Grid:
        """Return the grid of a tensor that is on one.

        Raises:
            CompressError: it is float32.
        """
        grid = self.tensors[name].grid
        if grid is None:
            raise CompressError(
                f"export: tensor {name!r} is float32, and has no grid; this is a fault, please report it"
            )
        return grid

    @property
    def integer(self) -> bool:
        """Whether all tensors are on grids."""
        return all(tensor.grid is not None for tensor in self.tensors.values())

    @property
    def weighted(self) -> list[Weighted]:
        """The operations that have a weight."""
        return [operation for operation in self.operations if isinstance(operation, Weighted)]

    def readers(self, name: str) -> list[Operation]:
        """Return the operations that read a tensor."""
        return [operation for operation in self.operations if name in operation.inputs]

    def peak_bytes(self) -> int:
        """Return the bytes of one sample's tensors that are alive at once, at most, in the order of the operations."""
        number = {self.input: 0}
        steps = [Step("", (), (("", self.tensors[self.input].bytes),))]
        for operation in self.operations:
            # A reshape gives no new values, and an activation function can work in place.
            inputs = tuple(dict.fromkeys(number[name] for name in operation.inputs))
            own = (("", self.tensors[operation.output].bytes),)
            number[operation.output] = len(steps)
            steps.append(
                Step(operation.module, inputs, own, isinstance(operation, Reshape | Clip | Sigmoid | HardSwish))
            )
        return peak_values(in_place([*steps, Step("", (number[self.output],))]), {})
