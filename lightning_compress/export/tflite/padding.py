"""Torch's padding in TFLite's words: SAME, VALID, or an explicit PAD before VALID."""

from __future__ import annotations

Four = tuple[int, int, int, int]


def read_padding(size: int, out: int, kernel: int, stride: int, dilation: int, before: int) -> tuple[int, int]:
    """Return the padding of one dimension that windows really read: before and behind."""
    return before, max((out - 1) * stride + (kernel - 1) * dilation + 1 - size - before, 0)


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int, int]:
    """Return the padding before and behind that SAME means, and the size of its output."""
    out = -(-size // stride)
    total = max((out - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2, out


def placed(
    size: tuple[int, int], out: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int],
    dilation: tuple[int, int], padding: Four,
) -> tuple[str, Four]:  # fmt: skip
    """Return ``SAME`` or ``VALID``, and the explicit padding (top, bottom, left, right) that goes with ``VALID``.

    Args:
        size, out: height and width of input and output.
        kernel, stride, dilation: of the kernel, along height and width.
        padding: as torch was told: top, bottom, left, right.
    """
    sides = [read_padding(size[i], out[i], kernel[i], stride[i], dilation[i], padding[2 * i]) for i in range(2)]
    if all((*sides[i], out[i]) == same_padding(size[i], kernel[i], stride[i], dilation[i]) for i in range(2)):
        return "SAME", (0, 0, 0, 0)
    return "VALID", (*sides[0], *sides[1])
