"""Range coding with probabilities that adapt to context: the codes of a layer take fewer bytes than their entropy.

    class of a weight = (how large |code - center| is expected, over m, the layer's mean so far,
                         what the weights left of it and above it in its kernel are, with their signs, over m)
        expected = (a r c m + sum over its kernel so far) / (a + weights of it so far),   r, c: row and column over m
    P(code | class) ~ how often the class had the code so far + a bell of the class's width

Source: adaptive context modeling of weights is that of DeepCABAC (Wiedemann et al. 2019, arXiv 1907.11900) and NNCodec,
which code one binary decision after the other by those just coded; the range coder (Martin 1979) is constriction's.
Ours: neighbors in the kernel count with their signs, since kernels are smooth, and contexts are updated after vectors
rather than bits, so that reading stays fast in numpy. Output channels come in groups that grow, and in each group
kernel positions (of 1 x 1 kernels quarters of the inputs) one after the other: all that a vector's classes follow from
came before it. No table is stored. Use it where the file counts and reading it may take longer. It gains nothing
where large and small weights are mixed evenly and all codes are as frequent; then codes are written in fixed width.

Reader and writer must find the same classes and tables on any machine: sums are of whole numbers, below 2^53 and so
exact in any order, and all else is one rounded operation at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, final

import constriction
import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from lightning_compress.quantization.coders.bits import pack_bits, unpack_bits
from lightning_compress.quantization.coders.coder import Bytes, Coder

LENGTH = np.dtype("<u4")  # of the number of a stream's words
WORD = 4
GROWTH = 4  # a group has a quarter of the output channels before it
PASSES = 9  # over the kernel positions of a group, at most
CHUNKS = 4  # of the inputs of kernels of one position
ROW, COLUMN, KERNEL = 32, 3, 2.5  # mean weights that count beside what was seen, for each kind of neighbor
BELL, SEEN = 40, 20  # weights that count as seen: of a class's bell, and for its width
WIDTH, NARROWEST = 1.2, 0.3  # of the bell over the mean |code - center|, and at least
FINE = 1024  # parts of a weight in the tables
# Powers of the square root of 2, between which a class is, and its middle; written out, to be the same everywhere.
EDGES = np.array([0.3535533905932738, 0.5, 0.7071067811865476, 1.0, 1.4142135623730951, 2.0, 2.8284271247461903])
MIDDLES = np.array([0.2973, 0.4204, 0.5946, 0.8409, 1.1892, 1.6818, 2.3784, 3.3636])
SIGNED = np.array([-1.6, -0.4, 0.4, 1.6])  # the same for the neighbors' sum
LEVELS = len(SIGNED) + 1

Take = Callable[[NDArray[np.int64], NDArray[np.float64]], NDArray[np.int64]]


@final
@dataclass(frozen=True)
class RangeCoded(Coder):
    """Each layer by constriction's range coder with adaptive contexts, or in fixed width where that is smaller.

    The size follows from the weights, not from the plan: predicted bytes are then an upper bound.
    """

    kind: ClassVar[str] = "adaptive_range"

    @override
    def write(self, codes: Bytes, bits: int, shape: Sequence[int], kept: NDArray[np.bool_] | None = None) -> Bytes:
        plain = np.concatenate([np.zeros(1, np.uint8), pack_bits(codes, bits)])
        if not codes.size:
            return plain
        encoder, all_codes = constriction.stream.queue.RangeEncoder(), np.zeros(prod(shape), np.int32)
        all_codes[... if kept is None else kept.ravel()] = codes

        def take(places: NDArray[np.int64], table: NDArray[np.float64]) -> NDArray[np.int64]:
            encoder.encode(all_codes[places], _model(table))
            return all_codes[places].astype(np.int64)

        _walk(bits, shape, kept, take)
        words = encoder.get_compressed()
        parts = [np.ones(1, np.uint8), np.array([len(words)], LENGTH).view(np.uint8), words.view(np.uint8)]
        coded = np.concatenate(parts)
        return coded if len(coded) < len(plain) else plain

    def code_lengths(
        self, codes: Bytes, bits: int, shape: Sequence[int]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return what each code would take at each place, were all codes before it these.

        Args:
            codes: as for :meth:`write`, of all weights.
            bits: of a code.
            shape: of the layer's weight.

        Returns:
            Tables of bits, shape ``(tables, 2 ** bits)``, and which of them is that of each place, shape ``(n,)``.
        """
        which = np.zeros(codes.size, np.int64)
        tables: list[NDArray[np.float64]] = []

        def take(places: NDArray[np.int64], table: NDArray[np.float64]) -> NDArray[np.int64]:
            which[places] = len(tables)
            tables.append(-np.log2(table))
            return codes[places].astype(np.int64)

        _walk(bits, shape, None, take)
        return np.stack(tables), which

    @override
    def read(
        self, stream: Bytes, bits: int, shape: Sequence[int], kept: NDArray[np.bool_] | None = None
    ) -> tuple[Bytes, int]:
        count = prod(shape) if kept is None else int(kept.sum())
        if not stream[0]:
            size = -(-count * bits // 8)
            return unpack_bits(stream[1 : 1 + size], bits, count), 1 + size
        if stream[0] > 1 or not count:
            raise ValueError("its codes are written in a way that is not known")
        begin = 1 + LENGTH.itemsize
        if len(stream) < begin:
            raise ValueError("its codes end too early")
        end = begin + WORD * int(np.ascontiguousarray(stream[1:begin]).view(LENGTH)[0])
        if end > len(stream):
            raise ValueError("its codes end too early")
        decoder = constriction.stream.queue.RangeDecoder(np.ascontiguousarray(stream[begin:end]).view(np.uint32))
        all_codes = np.zeros(prod(shape), np.uint8)

        def take(places: NDArray[np.int64], table: NDArray[np.float64]) -> NDArray[np.int64]:
            try:
                found = decoder.decode(_model(table), len(places))
            except AssertionError as error:  # what constriction says of words that no encoder writes
                raise ValueError("its codes are damaged") from error
            all_codes[places] = found
            return found.astype(np.int64)

        _walk(bits, shape, kept, take)
        if not decoder.maybe_exhausted():
            raise ValueError("its codes end early, or are none")
        return all_codes[... if kept is None else kept.ravel()], end


def _model(table: NDArray[np.float64]) -> constriction.stream.model.Categorical:
    return constriction.stream.model.Categorical(table, perfect=False)


def _walk(bits: int, shape: Sequence[int], kept: NDArray[np.bool_] | None, take: Take) -> None:
    """Visit all stored weights in vectors of one class each, in an order and with tables that past codes give.

    Args:
        bits: of a code.
        shape: of the weight: ``(out, in, *kernel)``.
        kept: which weights are stored, in that shape; None for all.
        take: ``(places in the flattened weight, probability of each code) -> codes there``.
    """
    rows, inputs, kernel = shape[0], shape[1], prod(shape[2:])
    there = np.ones((rows, inputs, kernel), bool) if kept is None else kept.reshape(rows, inputs, kernel)
    places = np.arange(rows * inputs * kernel).reshape(rows, inputs, kernel)
    statistics, neighbors = _Statistics(bits), _neighbors(kernel, shape[-1] if len(shape) > 2 else 1)
    columns = _Sums(np.zeros((inputs, kernel)), np.zeros((inputs, kernel)))
    for low, high in _groups(rows):
        mean, center = statistics.mean, statistics.center
        row = _Sums(np.zeros(high - low), np.zeros(high - low))
        kernels = _Sums(np.zeros((high - low, inputs)), np.zeros((high - low, inputs)))
        channels = _Sums(columns.size.sum(1) / kernel, columns.count.sum(1) / kernel)
        signed = np.zeros((high - low, inputs, kernel + 1))  # 0 where nothing is known yet, and outside
        for i, k in _passes(inputs, kernel):
            here = there[low:high, i, k]
            up = columns.size[i, k] + channels.size[i, None] + COLUMN * mean
            up = up / ((columns.count[i, k] + channels.count[i, None] + COLUMN) * mean)
            across = (row.size + ROW * mean) / (row.count + ROW)
            expected = KERNEL * across[:, None, None] * up[None]
            expected = (expected + kernels.size[:, i, None]) / (KERNEL + kernels.count[:, i, None])
            classes = np.searchsorted(EDGES, expected[here] / mean) * LEVELS
            around = signed[:, i][:, :, neighbors[0, k]] + signed[:, i][:, :, neighbors[1, k]]
            classes += np.searchsorted(SIGNED, around[here] / mean)
            far = np.zeros(here.shape)
            far[here] = _take(places[low:high, i, k][here], classes, statistics, mean, center, take) - center
            signed[:, i, k] = far
            far = np.abs(far)
            row.add(far.sum((1, 2)), here.sum((1, 2)))
            kernels.add(far.sum(2), here.sum(2), (slice(None), i))
            columns.add(far.sum(0), here.sum(0), (i, k))


def _take(
    places: NDArray[np.int64],
    classes: NDArray[np.int64],
    statistics: _Statistics,
    mean: float,
    center: int,
    take: Take,
) -> NDArray[np.int64]:
    """Return the codes at these places, taken class by class, and count them."""
    order = np.argsort(classes, kind="stable")
    present, starts = np.unique(classes[order], return_index=True)
    codes = np.zeros(len(classes), np.int64)
    for table, chosen in zip(statistics.tables(present, mean, center), np.split(order, starts)[1:], strict=True):
        codes[chosen] = take(places[chosen], table)
    statistics.add(classes, codes, center)
    return codes


def _neighbors(kernel: int, width: int) -> NDArray[np.int64]:
    """Return the positions left of and above each position of a kernel; ``kernel`` where there is none."""
    at = np.arange(kernel)
    return np.stack([np.where(at % width > 0, at - 1, kernel), np.where(at >= width, at - width, kernel)])


def _groups(rows: int) -> Iterator[tuple[int, int]]:
    """Return ranges of output channels."""
    low = 0
    while low < rows:
        high = min(low + max(low // GROWTH, 1), rows)
        yield low, high
        low = high


def _passes(inputs: int, kernel: int) -> list[tuple[slice, slice]]:
    """Return the inputs and the kernel positions that are coded at a time."""
    if kernel == 1:
        size = -(-inputs // CHUNKS)
        return [(slice(i, i + size), slice(0, 1)) for i in range(0, inputs, size)]
    size = -(-kernel // PASSES)
    return [(slice(0, inputs), slice(k, k + size)) for k in range(0, kernel, size)]


@dataclass
class _Sums:
    """Sums of |code - center|, and of how many weights; float64, whole numbers."""

    size: NDArray[np.float64]
    count: NDArray[np.float64]

    def add(self, size: NDArray[np.float64], count: NDArray[np.int64], where: Any = ...) -> None:
        """Add to the sums at an index."""
        self.size[where] += size
        self.count[where] += count


class _Statistics:
    """Counts of each code in each class."""

    def __init__(self, bits: int) -> None:
        self.symbols = np.arange(2**bits)
        self.seen = np.zeros((len(MIDDLES) * LEVELS, 2**bits), np.int64)
        self.sizes = np.zeros(len(self.seen))
        self.sum = 0
        self.reach = 2**bits // 32  # neighboring codes of wide grids count as each other

    @property
    def count(self) -> int:
        """Weights so far."""
        return int(self.seen.sum())

    @property
    def mean(self) -> float:
        """The mean |code - center|, four weights counting as if codes were even."""
        return (float(self.sizes.sum()) + 2 * len(self.symbols) / 3) / (self.count + 4)

    @property
    def center(self) -> int:
        """The mean code."""
        return (2 * self.sum + self.count) // (2 * self.count) if self.count else len(self.symbols) // 2

    def tables(self, classes: NDArray[np.int64], mean: float, center: int) -> NDArray[np.float64]:
        """Return the probability of each code in each of these classes, shape ``(classes, 2 ** bits)``."""
        own = self.seen[classes]
        width = self.sizes[classes] + SEEN * mean * MIDDLES[classes // LEVELS]
        width = np.maximum(WIDTH * (width / (own.sum(1) + SEEN)), NARROWEST)[:, None]
        power = (self.symbols - center) ** 2 / (7 * width * width) + 1
        power = power * power
        bell = (65536 / (power * power)).astype(np.int64) + 1
        window = 2 * self.reach + 1
        sums = np.pad(own, ((0, 0), (self.reach + 1, self.reach))).cumsum(1)
        near = sums[:, window:] - sums[:, :-window]
        weight = FINE * BELL / bell.sum(1, keepdims=True)
        table = (near * (FINE / window) + bell * weight).astype(np.int64) + 1
        return table / table.sum(1, keepdims=True)

    def add(self, classes: NDArray[np.int64], codes: NDArray[np.int64], center: int) -> None:
        """Count codes, and how far they are from the center."""
        n = len(self.symbols)
        self.seen += np.bincount(classes * n + codes, minlength=self.seen.size).reshape(self.seen.shape)
        self.sizes += np.bincount(classes, np.abs(codes - center), len(self.sizes))
        self.sum += int(codes.sum())
