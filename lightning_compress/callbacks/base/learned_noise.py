"""Base class of callbacks with learned noise: its KL warms up, and at some point the noise ends for good.

    loss + beta(step) / N sum of KL,      beta: 0 before warmup[0], linear, ``strength`` from warmup[1] on

N is the number of train images: without it the penalty prunes everything in the first epoch. The KL of weight and
channel noise depends on no data, so its gradient is simply added before each optimizer step; the user's loss is not
touched; weight decay is kept from the noise. After ``end`` the network trains on without noise, as fine-tuning, with
what was found made permanent.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from math import inf, isinf
from operator import add
from pathlib import Path
from typing import Any, ClassVar, final
from zlib import crc32

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities.data import extract_batch_size
from torch import nn
from torch.utils._pytree import tree_leaves
from typing_extensions import override

from lightning_compress.callbacks.base.learned_sparsity import LearnedSparsityCallback
from lightning_compress.callbacks.base.progress import progress
from lightning_compress.callbacks.base.weight_decay import keep_from_decay, make_whole
from lightning_compress.core.errors import CompressError
from lightning_compress.core.plan import Plan
from lightning_compress.core.profile import LayerProfile, Profile
from lightning_compress.pruning.noise.noise import Noise
from lightning_compress.surgery.isolated_rng import isolated_rng
from lightning_compress.surgery.mask import measured
from lightning_compress.surgery.structure import Structure, applied_structure, network, write_structure
from lightning_compress.surgery.transforms import raw_weight


class LearnedNoise(LearnedSparsityCallback):
    """Trains noise on the layers that the plan names; the sub-class has one knob, which is 1 for them.

    Args:
        plan: see :class:`CompressionCallback`.
        strength: factor on the KL; above 1 more is dropped.
        warmup: shares of the training between which the KL rises from 0 to its strength.
        end: share of the training after which there is no noise.
        ignore: globs of layers that get none.

    Raises:
        CompressError: not ``0 <= warmup[0] <= warmup[1] <= end <= 1``, or a layer without a weight in the plan.
        NoEffectError: a glob of ``ignore`` matches no layer.
    """

    refusal: ClassVar[str] = "cannot have this noise"

    def __init__(
        self,
        plan: Plan | str | Path | Mapping[str, Any] | None = None,
        strength: float = 1.0,
        warmup: Sequence[float] = (0.0, 0.3),
        end: float = 0.7,
        ignore: Sequence[str] = (),
    ) -> None:
        super().__init__(plan, ignore)
        begin, full = warmup
        if not 0 <= begin <= full <= end <= 1:
            raise CompressError(
                f"{type(self).__name__}: needs 0 <= warmup[0] <= warmup[1] <= end <= 1, got warmup {list(warmup)} and "
                f"end {end}"
            )
        if not 0 <= strength < inf:
            raise CompressError(f"{type(self).__name__}: strength must be 0 or more, and finite, got {strength}")
        self.strength, self.warmup, self.end = strength, (begin, full), end
        self._images = 0  # of the train data; counted when a training starts

    @property
    @override
    def rests(self) -> bool:
        return self.end < 1

    @abstractmethod
    def add_noise(self, net: nn.Module, layer: LayerProfile, profile: Profile) -> None:
        """Attach the noise of one layer."""

    @abstractmethod
    def noise_of(self, net: nn.Module, layer: str, profile: Profile) -> tuple[Noise, nn.Module]:
        """Return the noise that :meth:`add_noise` attached, and the module that it is attached to."""

    def eligible(self, profile: Profile) -> list[LayerProfile]:
        """Return the layers that run: noise on others would learn nothing."""
        return [layer for layer in super().eligible(profile) if layer.positions]

    @final
    @override
    def attach(self, plan: Plan, net: nn.Module, profile: Profile, example: Any) -> None:
        for name in plan.layers:
            self.add_noise(net, profile[name], profile)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the train images, once, and keep weight decay from the noise, whose size is for its KL to say."""
        self._images = self._count_images(trainer)
        parameters = [p for noise, *_ in self._noises(network(pl_module)).values() for p in noise.parameters()]
        for optimizer in trainer.optimizers:
            keep_from_decay(optimizer, parameters)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave optimizers as they were, for a checkpoint that is written now."""
        for optimizer in trainer.optimizers:
            make_whole(optimizer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """End the noise when its time has come."""
        if progress(trainer, type(self).__name__) >= self.end:
            self.finish(network(pl_module))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Add the gradient of the KL to that of the loss."""
        beta = self._beta(trainer)
        # Gradients are unscaled by now, unless the optimizer does that itself.
        scale = loss_scale(trainer) if getattr(optimizer, "_step_supports_amp_scaling", False) else 1.0
        mine = [p for group in optimizer.param_groups for p in group["params"]]
        kl = self.add_gradient(network(pl_module), beta * scale, mine) if beta else None
        if kl is not None:
            pl_module.log("kl", kl)

    @final
    @torch.enable_grad()
    def add_gradient(self, net: nn.Module, beta: float, parameters: Iterable[nn.Parameter]) -> torch.Tensor | None:
        """Add ``beta`` times the gradient of the KL to that of the parameters; the KL, or None when noise has ended."""
        stepped = {id(parameter) for parameter in parameters}
        active = [(noise, weight) for noise, _, weight in self._noises(net).values() if not noise.ended]
        if not active:
            return None
        kl = reduce(add, (noise.kl(weight) for noise, weight in active))
        wanted = [
            p for noise, weight in active for p in (*noise.parameters(), weight) if id(p) in stepped and p.requires_grad
        ]
        if not wanted:
            return None
        found = torch.autograd.grad(kl * beta, wanted, allow_unused=True)
        for parameter, gradient in zip(wanted, found, strict=True):
            if gradient is not None:
                gradient = gradient.to(parameter.dtype)
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        return kl.detach()

    def _beta(self, trainer: Trainer) -> float:
        """Return the weight of the KL at this step, divided by the number of train images."""
        begin, full = self.warmup
        now = progress(trainer, type(self).__name__)
        share = 1.0 if now >= full else max(now - begin, 0.0) / max(full - begin, 1e-12)
        return self.strength * share / self._images

    def _count_images(self, trainer: Trainer) -> int:
        """Count training images of all loaders (estimated from the first batch for iterable datasets)."""
        loaders, number = tree_leaves(trainer.train_dataloader), 0
        for loader in loaders:
            if hasattr(getattr(loader, "dataset", None), "__len__"):
                number += len(loader.dataset)
            elif isinf(trainer.num_training_batches):
                raise CompressError(
                    f"{type(self).__name__}: the train data have no length, so the number of images, which the KL is "
                    f"divided by, is not known; give the Trainer limit_train_batches, the batches of an epoch"
                )
            else:
                with isolated_rng():
                    number += int(trainer.num_training_batches) * extract_batch_size(next(iter(loader)))
        return number

    def _noises(self, net: nn.Module) -> dict[str, tuple[Noise, nn.Module, nn.Parameter]]:
        """Return layer -> its noise, the module that carries it, and the layer's raw weight."""
        record = applied_structure(net)
        names = record.applied[self.kind].layers
        return {n: (*self.noise_of(net, n, record.profile), raw_weight(net.get_submodule(n))) for n in names}

    @override
    def finish(self, net: nn.Module) -> None:
        """End the noise."""
        found = {name: parts for name, parts in self._noises(net).items() if not parts[0].ended}
        for name, (noise, host, weight) in found.items():
            if not all(value.isfinite().all() for value in (weight, *noise.parameters())):
                raise CompressError(
                    f"{type(self).__name__}: training diverged: the noise or the weight of layer {name!r} is not "
                    f"finite; lower strength ({self.strength}) or the learning rate"
                )
            noise.end(host)
        if found:
            record = applied_structure(net)
            write_structure(net, Structure(measured(net, record.profile), record.applied, record.asked))


def salt(layer: str) -> int:
    """Return a number of the layer's own, to seed its noise."""
    return crc32(layer.encode())


def loss_scale(trainer: Trainer) -> float:
    """Return the factor on the loss before its backward pass: the scaler's in fp16, else 1."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return 1.0 if scaler is None else scaler.get_scale()
