"""Joint sparsity and quantization: one size limit for the network; each layer's density and bits come out of training.

    min loss(W)   s.t.   V = W,   sum_i b(V_i) nnz(W_i) <= S
    W <- prox of rho/2 sum (W - V + Y)^2 after each optimizer step: (W + eta rho (V - Y)) / (1 + eta rho)
    now and then: W <- project(W; b),  (V, b) <- project(W + Y; nnz(W)),  Y <- Y + W - V

Source: Yang et al. 2020 (paper 5, arXiv 1910.05897), after the authors' released code. In the paper and there: global
limit, no layer treated apart, 2^b nonzero values and an exact zero, limits that fall in steps with warm starts. Ours:
the limit can count positions and codebooks too, both projections are exact or nearly so, one weight stays in each
layer, the zeros of a projection stay until the next one (otherwise weights come back and are cut again, and a training
of 120 steps diverges), and the last part of the training goes with frozen codes and trained values. The closed prox
step is right for plain SGD; with other optimizers the quadratic term is added to the gradient. Use it for the smallest
files. It breaks when the limit falls while the learning rate is high: take one limit, or let several fall while it
warms up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil, inf, isinf
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from typing_extensions import override

from lightning_compress.callbacks.base.learned_sparsity import LearnedSparsityCallback
from lightning_compress.callbacks.base.progress import planned_steps, progress, steps_done, trains_nothing
from lightning_compress.core.errors import CompressError
from lightning_compress.core.instances import check_instances
from lightning_compress.core.plan import Plan
from lightning_compress.core.profile import Profile
from lightning_compress.quantization.admm_projections import (
    affordable_bits,
    check_limit,
    nonzero,
    project_codes,
    project_weights,
    quantized,
)
from lightning_compress.quantization.kmeans import SortedValues
from lightning_compress.quantization.quantizers.joint_codebook import MOST_BITS, JointCodebook
from lightning_compress.quantization.size_model import SizeAccount, WeightBitsAccount
from lightning_compress.surgery.mask import Mask
from lightning_compress.surgery.structure import Structure, applied_structure, network, write_structure
from lightning_compress.surgery.transforms import attach_weight, check_plain, raw_weight, weight_transforms

PROJECTIONS = 15  # up to the end, at least, where no period is given and there are so many steps


@final
class JointSparsityQuantization(LearnedSparsityCallback):
    """ADMM under one size limit; the knob ``joint`` is 1 for layers that take part.

    Args:
        plan: see :class:`CompressionCallback`.
        limits: shares of the layers' fp32 bits, falling; the last holds from ``fall`` on, those before it for equal
            parts of the training up to there.
        rho: penalty of W differing from V.
        account: what counts towards the limit.
        start_bits: of every layer before the first projection, one of ``bits``.
        bits: that a layer may have, each from 1 to 8.
        every: optimizer steps between projections, 1 or more; None for once an epoch, or more often where there would
            be fewer than 15 of them up to ``end``.
        fall: share of the training after which the last limit holds.
        bits_until: share of the training after which bits stay, so that duals settle; a limit that leaves no room for
            their codebooks still lowers them.
        end: share of the training after which codes are frozen and values are trained.
        ignore: globs of layers that take no part.

    Raises:
        CompressError: settings out of range, or a layer without a weight in the plan.
        InfeasibleBudgetError: a limit that not even one weight a layer meets, at the fewest bits.
        NoEffectError: a glob of ``ignore`` matches no layer.
    """

    kind: ClassVar[str] = "joint"
    name: ClassVar[str] = "joint"
    refusal: ClassVar[str] = "is no Conv or Linear"
    after: ClassVar[frozenset[str]] = frozenset(
        {
            "layer_removal",
            "channel_pruning",
            "low_rank",
            "log_normal_dropout",
            "information_dropout",
            "weight_pruning",
            "variational_dropout",
        }
    )
    knobs: ClassVar[Mapping[str, str]] = {"joint": "quantized jointly"}

    def __init__(
        self,
        plan: Plan | str | Path | Mapping[str, Any] | None = None,
        limits: Sequence[float] = (0.03,),
        rho: float = 0.05,
        account: SizeAccount | None = None,
        start_bits: int = 4,
        bits: Sequence[int] = (1, 2, 3, 4, 5, 6, 7, 8),
        every: int | None = None,
        fall: float = 0.1,
        bits_until: float = 0.5,
        end: float = 0.75,
        ignore: Sequence[str] = (),
    ) -> None:
        super().__init__(plan, ignore)
        check_instances("JointSparsityQuantization", account=(account, SizeAccount))
        if not limits or list(limits) != sorted(limits, reverse=True) or not 0 < limits[-1] <= limits[0] <= 1:
            raise CompressError(f"JointSparsityQuantization: limits must fall, within 0 and 1, got {list(limits)}")
        if not 0 < bits_until <= end <= 1 or not 0 <= fall <= end or not 0 < rho < inf:
            raise CompressError(
                f"JointSparsityQuantization: needs 0 < rho < inf, 0 < bits_until <= end <= 1 and 0 <= fall <= end, got "
                f"rho {rho}, bits_until {bits_until}, end {end} and fall {fall}"
            )
        if not bits or any(b not in range(1, MOST_BITS + 1) for b in bits) or start_bits not in bits:
            raise CompressError(
                f"JointSparsityQuantization: bits must be whole numbers from 1 to {MOST_BITS}, and start_bits one of "
                f"them, got bits {list(bits)} and start_bits {start_bits}"
            )
        if every is not None and not (1 <= every < inf and every == int(every)):
            raise CompressError(
                f"JointSparsityQuantization: every must be a whole number of optimizer steps, 1 or more, or None for "
                f"once an epoch, got {every}"
            )
        self.limits, self.rho = tuple(limits), rho
        self.start_bits, self.bits = int(start_bits), tuple(sorted({int(b) for b in bits}))
        self.account = WeightBitsAccount() if account is None else account
        self.every, self.fall, self.bits_until, self.end = every, fall, bits_until, end
        self._rates: dict[int, float] = {}  # of the batch at work: weights that SGD steps on, and learning rates

    @property
    @override
    def rests(self) -> bool:
        return True  # the values of codes, until these are frozen

    @override
    def attach(self, plan: Plan, net: nn.Module, profile: Profile, example: Any) -> None:
        sizes = {name: profile[name].weights for name in plan.layers}
        check_limit(sizes, self.limits[-1], self.account, self.bits[0])
        for name in plan.layers:
            layer = net.get_submodule(name)
            check_plain(name, layer, "JointSparsityQuantization")
            weight = layer.weight.detach()
            attach_weight(layer, JointCodebook(weight.shape).to(weight.device))
            attach_weight(layer, Mask(weight.shape).to(weight.device))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Project and freeze a network that is not trained: none of the hooks of a training is called then."""
        net = network(pl_module)
        if trains_nothing(trainer) and not self._frozen(net):
            self._project(net, self.limits[-1], free_bits=True, first=True)
            self._freeze(net, self.limits[-1])

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Project when it is time, and freeze the codes at the end."""
        net, step, now = network(pl_module), steps_done(trainer), self._progress(trainer)
        self._rates = {}
        if self._frozen(net):
            return
        if now >= self.end:
            self._freeze(net, self.limits[-1])
        elif step % self._period(trainer) == 0 and batch_idx % trainer.accumulate_grad_batches == 0:
            # Once a step, before the first of the batches whose gradients it gathers.
            residual = self._project(net, self._limit(now), now < self.bits_until, first=step == 0)
            pl_module.log("joint_residual", residual)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Note SGD's learning rates; with an optimizer that has no closed proximal step, the term's gradient."""
        net = network(pl_module)
        if self._frozen(net):
            return
        rates = {id(p): float(group["lr"]) for group in optimizer.param_groups for p in group["params"]}
        for state, weight in self._layers(net).values():
            if id(weight) not in rates:
                continue
            if isinstance(optimizer, torch.optim.SGD):
                # Now, because at the end of the batch schedulers have set the rate of the next step.
                self._rates[id(weight)] = rates[id(weight)]
            else:
                pull = self.rho * (weight.detach() - state.duplicate + state.dual)
                weight.grad = pull if weight.grad is None else weight.grad + pull

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Return the proximal step, after plain SGD's own and at its learning rate."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if not self._rates:  # no step in this batch, another optimizer's, or codes are frozen
            return
        for state, weight in self._layers(network(pl_module)).values():
            pull = self._rates.get(id(weight), 0.0) * self.rho
            weight.data.add_(pull * (state.duplicate - state.dual)).div_(1 + pull)

    @override
    def finish(self, net: nn.Module) -> None:
        """Freeze codes within the limit."""
        if not self._frozen(net):
            self._freeze(net, self.limits[-1])

    def _progress(self, trainer: Trainer) -> float:
        return progress(trainer, "JointSparsityQuantization")

    def _period(self, trainer: Trainer) -> int:
        """Return the optimizer steps between projections."""
        if self.every is None and isinf(trainer.num_training_batches):
            raise CompressError(
                "JointSparsityQuantization: the train data have no length, so the steps of an epoch are not known; "
                "give every, the optimizer steps between projections"
            )
        if self.every:
            return self.every
        epoch = ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        return max(min(epoch, int(self.end * planned_steps(trainer) / PROJECTIONS)), 1)

    def _limit(self, now: float) -> float:
        if now >= self.fall:
            return self.limits[-1]
        return self.limits[int(now / self.fall * (len(self.limits) - 1))]

    def _layers(self, net: nn.Module) -> dict[str, tuple[JointCodebook, nn.Parameter]]:
        """Return layer -> its state and its raw weight."""
        found = {}
        for name in applied_structure(net).applied[self.kind].layers:
            layer = net.get_submodule(name)
            state = next(t for t in weight_transforms(layer) if isinstance(t, JointCodebook))
            found[name] = (state, raw_weight(layer))
        return found

    def _frozen(self, net: nn.Module) -> bool:
        return all(bool(state.frozen) for state, _ in self._layers(net).values())

    @torch.no_grad()
    def _project(self, net: nn.Module, limit: float, free_bits: bool, first: bool) -> float:
        """Return one round of ADMM; the mean square of what W and V differ by."""
        layers = self._layers(net)
        if first:
            for state, _ in layers.values():
                state.width.fill_(self.start_bits)
        bits, counts = self._sparsify(net, layers, limit)
        choices = {name: self.bits if free_bits else (bits[name],) for name in layers}
        targets = {name: weight + state.dual for name, (state, weight) in layers.items()}
        bits, books = project_codes(targets, counts, self._bits(layers, limit), self.account, choices)
        residual, number = 0.0, 0
        for name, (state, weight) in layers.items():
            state.width.fill_(bits[name])
            state.duplicate.copy_(quantized(targets[name], books[name]))
            state.dual.add_(weight - state.duplicate)
            residual += float((weight - state.duplicate).square().sum())
            number += weight.numel()
        return residual / number

    def _sparsify(
        self, net: nn.Module, layers: Mapping[str, tuple[JointCodebook, nn.Parameter]], limit: float
    ) -> tuple[dict[str, int], dict[str, int]]:
        """Zero the weights that do not fit, until the next time; return bits and kept weights of the layers."""
        weights = {name: weight.detach() for name, (_, weight) in layers.items()}
        room = self._bits(layers, limit)
        bits = {name: state.bits for name, (state, _) in layers.items()}
        bits = affordable_bits(weights, bits, room, self.account, self.bits)
        before = {name: int(state.kept) for name, (state, _) in layers.items()}
        kept = project_weights(weights, bits, before, room, self.account)
        for name, (state, weight) in layers.items():
            weight.data.mul_(kept.masks[name])
            # A layer that begins with zeros keeps its places up to the next projection: a mask would keep the zeros.
            _mask(net.get_submodule(name)).copy_(kept.masks[name] | (not kept.counts[name]))
            state.kept.fill_(kept.counts[name])
        return bits, kept.counts

    def _bits(self, layers: Mapping[str, tuple[JointCodebook, Tensor]], limit: float) -> float:
        return limit * 32 * sum(weight.numel() for _, weight in layers.values())

    @torch.no_grad()
    def _freeze(self, net: nn.Module, limit: float) -> None:
        """Project the weights for the last time, freeze codes and values, and update the profile."""
        layers, record = self._layers(net), applied_structure(net)
        bits, counts = self._sparsify(net, layers, limit)
        changed = []
        for name, (state, weight) in layers.items():
            _mask(net.get_submodule(name)).copy_(weight != 0)
            state.freeze(weight, SortedValues(nonzero(weight)).codebook(2 ** bits[name]), bits[name])
            layer = record.profile[name]
            fields: dict[str, Any] = JointCodebook.stored(bits[name], 1)
            changed.append(replace(layer, density=counts[name] / layer.weights, mask_unit=1, **fields))
        write_structure(net, Structure(record.profile.update(changed), record.applied, record.asked))


def _mask(layer: nn.Module) -> Tensor:
    """Return the mask of a layer that takes part."""
    (mask,) = (t for t in weight_transforms(layer) if isinstance(t, Mask))
    return mask.mask
