"""Round the columns of a weight one after the other; those that follow take up each error by least squares.

    min over q on a grid:   sum over rows of (w - q)' H (w - q),      H: second moments of the layer's inputs
    e = (w_j - q_j) / U_jj,      w_k <- w_k - e U_jk for k > j,       U' U = H^-1,  U upper triangular

Sources: OBQ (Frantar et al. 2022, arXiv 2208.11580, section 3) for what takes up an error, and GPTQ (2210.17323,
section 3) for one order of all rows, the Cholesky factor and blocks of columns.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Choose = Callable[[int, Floats], Floats]

DAMPING = 0.01  # of the mean second moment, added to all
BLOCK = 64  # columns after which an error is handed on to all that follow


def feedback(second: Floats) -> Floats:
    """Return U: row j says how the columns after j take up an error of column j.

    Args:
        second: moments of the inputs, in any unit, shape ``(features, features)``.
    """
    damped = second + DAMPING * max(float(np.mean(np.diag(second))), 1e-30) * np.eye(len(second))
    # H = V V' with V upper triangular, from the Cholesky factor of the columns in reverse; then U is the inverse of V.
    factor = np.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1]
    upper = torch.from_numpy(factor.copy())
    return torch.linalg.solve_triangular(upper, torch.eye(len(second), dtype=upper.dtype), upper=True).numpy()


def round_in_turn(weight: Floats, after: Floats, choose: Choose) -> Floats:
    """Return what stands for a weight once each column has been rounded.

    Args:
        weight: shape ``(rows, features)``; it is not changed.
        after: of :func:`feedback`.
        choose: takes the number of a column and what it is to stand for, shape ``(rows,)``; gives what stands for it.
    """
    left, found, columns = weight.copy(), np.zeros_like(weight), weight.shape[1]
    for begin in range(0, columns, BLOCK):
        end = min(begin + BLOCK, columns)
        errors = np.zeros((len(weight), end - begin))
        for j in range(begin, end):
            found[:, j] = choose(j, left[:, j])
            errors[:, j - begin] = (left[:, j] - found[:, j]) / after[j, j]
            left[:, j + 1 : end] -= np.outer(errors[:, j - begin], after[j, j + 1 : end])
        left[:, end:] -= errors @ after[begin:end, end:]
    return found
