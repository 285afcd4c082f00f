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


def cropped(
    kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], output_padding: tuple[int, int]
) -> tuple[str, list[tuple[int, int]]]:
    """Return ``SAME`` or ``VALID`` for a transposed convolution, and the zeros to put before and behind its kernel.

    A row or column of zeros behind it for each of ``output_padding``: then as much is cut off the output at both ends,
    as SAME does it where ``0 < kernel - 2 padding <= stride``. VALID cuts nothing off; a SLICE behind it can. XNNPACK
    takes SAME for kernels that are as large as the stride, so smaller ones get more zeros around them, which are cut
    off again.

    Args:
        kernel, stride: along height and width.
        padding, output_padding: as torch was told, along height and width.
    """
    sizes = [kernel[i] + output_padding[i] for i in range(2)]
    same = all(0 < sizes[i] - 2 * padding[i] <= stride[i] for i in range(2))
    if padding == (0, 0) or not same:
        return "VALID", [(0, more) for more in output_padding]
    zeros = []
    for i, size in enumerate(sizes):
        more = max(stride[i] - size, 0)
        zeros.append((more // 2, output_padding[i] + more - more // 2))
    return "SAME", zeros
