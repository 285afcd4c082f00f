"""Variational dropout: training finds which weights (or k x k slices) can be noise, and those are dropped.

    prune where log alpha >= threshold,     loss + KL(q || log-uniform) / N       (noise/gaussian.py has the formulas)

Sources: Molchanov et al. 2017 (arXiv 1701.05369); it is how we read "element-wise and kernel-wise variational pruning"
of paper 1 (arXiv 1912.02254), whose text gives no formula: a reconstruction. The density of each layer is an outcome,
not a choice: a search has nothing to vary here, and the profile is measured after training. Use it after channel
pruning, with 20 or more epochs; it breaks with short trainings (the noise has no time to grow) and with a large weight
decay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar, final

from torch import nn
from typing_extensions import override

from lightning_compress.callbacks.base.learned_noise import LearnedNoise, salt
from lightning_compress.core.errors import CompressError
from lightning_compress.core.instances import check_instances
from lightning_compress.core.plan import Plan
from lightning_compress.core.profile import LayerProfile, Profile
from lightning_compress.pruning.noise.gaussian import GaussianNoise
from lightning_compress.pruning.noise.noise import Noise
from lightning_compress.pruning.patterns.element import Element
from lightning_compress.pruning.patterns.n_of_m import NofM
from lightning_compress.pruning.patterns.pattern import Pattern
from lightning_compress.surgery.transforms import attach_weight, check_plain, weight_transforms


@final
class VariationalDropout(LearnedNoise):
    """Noise on weights; the knob ``variational`` is 1 for layers that have it.

    Args:
        plan: see :class:`LearnedNoise`.
        pattern: what one variance is for: ``Element`` or ``Kernel``.
        threshold: of log alpha, above which a weight is dropped.
        strength, warmup, end, ignore: see :class:`LearnedNoise`.

    Raises:
        CompressError: see :class:`LearnedNoise`; a pattern that fixes how many weights stay.
    """

    kind: ClassVar[str] = "variational_dropout"
    name: ClassVar[str] = "VariationalDropout"
    after: ClassVar[frozenset[str]] = frozenset(
        {"layer_removal", "channel_pruning", "low_rank", "log_normal_dropout", "information_dropout", "weight_pruning"}
    )
    knobs: ClassVar[Mapping[str, str]] = {"variational": "variational noise"}

    def __init__(
        self,
        plan: Plan | str | Path | Mapping[str, Any] | None = None,
        pattern: Pattern | None = None,
        threshold: float = 3.0,
        strength: float = 1.0,
        warmup: Sequence[float] = (0.0, 0.3),
        end: float = 0.7,
        ignore: Sequence[str] = (),
    ) -> None:
        super().__init__(plan, strength, warmup, end, ignore)
        if not isfinite(threshold):
            raise CompressError(f"VariationalDropout: threshold must be a finite number, got {threshold}")
        check_instances("VariationalDropout", pattern=(pattern, Pattern))
        self.pattern, self.threshold = Element() if pattern is None else pattern, threshold
        if isinstance(self.pattern, NofM):
            raise CompressError(
                f"VariationalDropout: NofM keeps {self.pattern.n} of {self.pattern.m} weights, and how many the noise "
                f"drops is found by training; use Element or Kernel (compress/pattern=element), or WeightPruning"
            )

    @override
    def predict(self, plan: Plan, profile: Profile) -> Profile:
        return profile.update(replace(profile[n], mask_unit=self.pattern.unit(profile[n])) for n in plan.layers)

    @override
    def add_noise(self, net: nn.Module, layer: LayerProfile, profile: Profile) -> None:
        module = net.get_submodule(layer.name)
        check_plain(layer.name, module, "VariationalDropout")
        shape = module.weight.shape
        grain = shape if self.pattern.unit(layer) == 1 else (*shape[:2], *[1] * len(layer.kernel))
        noise = GaussianNoise(shape, grain, self.threshold, salt(layer.name)).to(module.weight.device)
        noise.start(module.weight)
        attach_weight(module, noise)

    @override
    def noise_of(self, net: nn.Module, layer: str, profile: Profile) -> tuple[Noise, nn.Module]:
        host = net.get_submodule(layer)
        return next(t for t in weight_transforms(host) if isinstance(t, GaussianNoise)), host
