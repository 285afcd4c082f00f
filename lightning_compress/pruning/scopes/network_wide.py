"""Network-wide ("global magnitude"): the plan's densities say how many weights stay in all, magnitude says where.

Source: the global variant of magnitude pruning, as in Blalock et al. 2020 (arXiv 2003.03033, section 3.1): the strong
and simple baseline. It breaks at extreme densities, where a narrow layer may lose nearly all it has; one unit stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from lightning_compress.pruning.scopes.scope import Scope


@final
@dataclass(frozen=True)
class NetworkWide(Scope):
    """All units of the plan's layers in one ranking; layers that the plan does not name stay dense."""

    @override
    def __call__(
        self, kept: Mapping[str, int], scores: Mapping[str, Tensor], unit: Mapping[str, int]
    ) -> dict[str, int]:
        names = [name for name in kept if len(scores[name])]
        if not names:
            return dict(kept)
        # The best unit of each layer comes first whatever its score: no layer may lose its last connection.
        ranked = []
        for name in names:
            values = scores[name].double().cpu().clone()
            values[values.argmax()] = torch.inf
            ranked.append(values)
        weights = torch.cat([torch.full((len(v),), unit[n]) for n, v in zip(names, ranked, strict=True)])
        owner = torch.cat([torch.full((len(v),), i) for i, v in enumerate(ranked)])
        order = torch.cat(ranked).sort(descending=True, stable=True).indices
        limit = sum(kept[name] * unit[name] for name in names)
        chosen = order[weights[order].cumsum(0) <= limit]
        counts = torch.bincount(owner[chosen], minlength=len(names)).tolist()
        return {**kept, **{name: max(count, 1) for name, count in zip(names, counts, strict=True)}}
