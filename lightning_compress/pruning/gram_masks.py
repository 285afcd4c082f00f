"""Masks with exactly k ones for a layer's Gram matrix: the error of a mask, and two quick choices.

    err(mask) = d'Gd,  d = 1 - mask,      G[c, c'] = <Phi_c, Phi_c'>,  Phi_c = what input channel c adds to the output

With G summed over samples, positions and outputs this *is* the squared error of the layer's output before its
activation when the channels with mask 0 are dropped: a convolution is linear in its channels. Source: the layer-wise
error of Hu et al. 2018 (arXiv 1805.11394), in a form reconstructed by us (docs/papers.md; the text was not
available); the greedy choice is that of ThiNet (Luo et al. 2017, arXiv 1707.06342, section 3.2.2) on the same error.
"""

from __future__ import annotations

import numpy as np

from lightning_compress.core.errors import CompressError


def mask_errors(G: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return ``d'Gd`` of many masks.

    Args:
        G: shape ``(C, C)``, symmetric.
        masks: shape ``(..., C)``, true where a channel is kept.

    Returns:
        Shape ``(...)``, in the unit of G.
    """
    dropped = 1.0 - np.asarray(masks, dtype=np.float64)
    return np.einsum("...c,...c->...", dropped @ G, dropped)


def greedy_mask(G: np.ndarray, k: int) -> np.ndarray:
    """Eliminate channels backward until k are left; O(C^2).

    Returns:
        Shape ``(C,)``, boolean, exactly k true. Of equals the first is dropped.

    Raises:
        CompressError: see :func:`checked`.
    """
    G = checked(G, k)
    mask = np.ones(len(G), dtype=bool)
    mask[elimination_order(G)[: len(G) - k]] = False
    return mask


def elimination_order(G: np.ndarray) -> list[int]:
    """Return channels in the order of backward elimination: each time the one that adds least.

    Dropping channel ``c`` after others adds ``G_cc + 2 sum of G_cd over the dropped d``. Of equals the first goes.

    Args:
        G: shape ``(C, C)``, symmetric.
    """
    left, added, order = np.ones(len(G), dtype=bool), np.diag(G).copy(), []
    for _ in range(len(G)):
        worst = int(np.argmin(np.where(left, added, np.inf)))
        left[worst] = False
        order.append(worst)
        added += 2 * G[worst]
    return order


def energy_mask(G: np.ndarray, k: int) -> np.ndarray:
    """Keep the k channels that add most to the output, each taken alone.

    Returns:
        Shape ``(C,)``, boolean, exactly k true. Of equals the first is kept.

    Raises:
        CompressError: see :func:`checked`.
    """
    G = checked(G, k)
    mask = np.zeros(len(G), dtype=bool)
    mask[np.argsort(-np.diag(G), kind="stable")[:k]] = True
    return mask


def checked(G: np.ndarray, k: int) -> np.ndarray:
    """Return G in float64.

    Raises:
        CompressError: G is not square, finite and symmetric, or k is not in [0, C].
    """
    G = np.asarray(G, dtype=np.float64)
    if G.ndim != 2 or G.shape[0] != G.shape[1] or not len(G):
        raise CompressError(f"gram: expected a square matrix of at least one channel, got the shape {G.shape}")
    if not np.isfinite(G).all():
        raise CompressError("gram: the matrix has entries that are not finite; the layer's inputs overflow")
    if not np.allclose(G, G.T, rtol=1e-6, atol=1e-9 * max(float(np.abs(G).max(initial=0.0)), 1e-300)):
        raise CompressError("gram: the matrix is not symmetric; build it as Phi' Phi")
    if not 0 <= k <= len(G):
        raise CompressError(f"gram: cannot keep {k} of {len(G)} channels; k must be from 0 to {len(G)}")
    return G
