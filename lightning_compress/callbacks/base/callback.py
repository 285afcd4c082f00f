"""Base class of compression callbacks: a few verbs on a network, and the Lightning hooks written once.

Structure changes in ``setup``, before the optimizer exists and before a checkpoint is restored (Lightning calls
``callback.setup``, then restores the weights, then makes the optimizers).
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar, Self, final

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from lightning_compress.callbacks.base.checkpoint_hooks import keep_structure_in_checkpoints
from lightning_compress.callbacks.base.compatibility import check_averaging, check_gradients
from lightning_compress.callbacks.base.device import surgery_device
from lightning_compress.callbacks.base.norm_statistics import follow_removal
from lightning_compress.callbacks.base.optimizer_groups import extend_configure_optimizers
from lightning_compress.callbacks.base.order import check_order
from lightning_compress.callbacks.base.output_errors import layer_errors
from lightning_compress.callbacks.base.plans import as_plan, plan_names
from lightning_compress.callbacks.base.progress import ends_with_this_epoch
from lightning_compress.callbacks.base.stop_at_nan import check_loss
from lightning_compress.callbacks.base.train_batches import train_batches
from lightning_compress.core.errors import CompressError
from lightning_compress.core.kinds import HasKind, classes_of
from lightning_compress.core.plan import Plan
from lightning_compress.core.profile import LayerProfile, Profile
from lightning_compress.core.space import Choice
from lightning_compress.surgery import measure
from lightning_compress.surgery._lightning import callbacks_of
from lightning_compress.surgery._torch import BatchNormBase
from lightning_compress.surgery.graph.reasons import not_called
from lightning_compress.surgery.inputs import example_of
from lightning_compress.surgery.isolated_rng import isolated_rng
from lightning_compress.surgery.replacement import describe, spread
from lightning_compress.surgery.structure import (
    Structure,
    check_library,
    network,
    structure_of,
    write_structure,
)
from lightning_compress.surgery.weight_writes import check_constraints, layers_that_write


class CompressionCallback(Callback, HasKind, ABC):
    """Applies its knobs of a plan to the network that a Trainer trains.

    Args:
        plan: a plan, a YAML file, or plain dicts ``{layer: {knob: number}}``; None until :meth:`with_plan`.

    Attributes:
        after: kinds of callbacks that it must be listed after: shapes change before weights are quantized.
        before: kinds of callbacks that it must be listed before, for those that do not know of it.
        knobs: the words in a plan that this callback understands, each with its title in tables.
        steady: whether weights mean the same from the first step of a training to the last, so that they may be
            averaged over it.
        removes: whether it takes away what batch norms have statistics of.
    """

    after: ClassVar[frozenset[str]] = frozenset()
    before: ClassVar[frozenset[str]] = frozenset()
    knobs: ClassVar[Mapping[str, str]]
    steady: ClassVar[bool] = True
    removes: ClassVar[bool] = False

    def __init__(self, plan: Plan | str | Path | Mapping[str, Any] | None = None) -> None:
        self.plan = as_plan(plan)

    def with_plan(self, plan: Plan) -> Self:
        """Return a copy of this callback that applies another plan; what it has cached about networks is shared."""
        other = copy.copy(self)
        other.plan = plan
        return other

    @abstractmethod
    def choices(self, net: nn.Module, profile: Profile, example: Any) -> Sequence[Choice]:
        """Return what a search may vary: for each choice, the values from cheapest to most expensive.

        Args:
            net: a dense network, which is left as it is.
            profile: its profile.
            example: one input batch.
        """

    @abstractmethod
    def resolve(self, plan: Plan, net: nn.Module, profile: Profile, example: Any) -> Plan:
        """Return what the plan rounds to on this network: equal results mean equal networks.

        Only this callback's knobs are kept. Arguments as in :meth:`choices`.

        Raises:
            CompressError: a layer of the plan cannot be compressed by this callback, or a value is out of range.
        """

    @abstractmethod
    def predict(self, plan: Plan, profile: Profile) -> Profile:
        """Return the profile of the network after a resolved plan is applied, by arithmetic alone."""

    @abstractmethod
    def attach(self, plan: Plan, net: nn.Module, profile: Profile, example: Any) -> None:
        """Apply a resolved plan to a network to which it has not been applied yet."""

    def kept_whole(self, module: nn.Module, example: Any) -> dict[str, str]:
        """Return layer -> why this callback leaves it as it is, in a search or whatever the plan says.

        Args:
            module: a LightningModule or a network; it is not changed.
            example: one input batch of the network.
        """
        net = network(module)
        profile = known_structure(net, example).profile
        free = {choice.layer for choice in self.choices(net, profile, example)}
        names = [layer.name for layer in profile.weighted]
        ignored = {name for pattern in getattr(self, "ignore", ()) for name in names if fnmatchcase(name, pattern)}
        idle = [p.name for p in profile.weighted if not p.positions and p.name not in {*free, *ignored}]
        found, uncalled = {}, not_called(net, idle, example)
        for layer in profile.weighted:
            if layer.name in ignored:
                found[layer.name] = "it is ignored"
            elif layer.name in uncalled:
                found[layer.name] = uncalled[layer.name]
            elif layer.name not in free:
                found[layer.name] = self.why_kept(layer, net)
        return found

    def why_kept(self, layer: LayerProfile, net: nn.Module) -> str:
        """Return why a layer that runs and is not ignored has nothing to choose.

        Args:
            layer: its profile.
            net: the network.
        """
        return "there is only one value that it can have"

    def coupled(self, module: nn.Module, example: Any) -> dict[str, tuple[str, ...]]:
        """Return layer of a plan -> the other layers that its number reaches too; by default none.

        Args:
            module: a LightningModule or a network; it is not changed.
            example: one input batch of the network.
        """
        return {}

    def output_errors(
        self, choices: Sequence[Choice], net: nn.Module, profile: Profile, example: Any, batches: Sequence[Any]
    ) -> list[list[float]]:
        """Return for each choice and value the noise-to-signal ratio that it alone causes in the outputs of layers.

        The closed-form planner adds them up. By default each layer is changed and run on its own dense inputs.

        Args:
            choices: of this callback.
            net: a dense network, which is left as it is; what is gathered may be kept on it.
            profile: its profile.
            example: one input batch.
            batches: input batches of train data, for what example alone says too little of.
        """

        def apply(changed: nn.Module, plan: Plan) -> None:
            self.with_plan(plan).apply(changed, example)

        return layer_errors(apply, choices, net, batches[0])

    @property
    def rests(self) -> bool:
        """Whether it has parameters without a gradient in a part of the training; by default not."""
        return False

    def calibrate(self, module: LightningModule, batches: Iterable[Any]) -> None:
        """Gather what the callback needs of module and data, before its plan is applied for the first time.

        Args:
            module: with its trained weights; what was gathered is kept on its network, and copies share it.
            batches: of train data; only as many are read as are needed.
        """

    @final
    def apply(self, net: nn.Module, example: Any) -> None:
        """Apply this callback's plan to a network, once: applying the same plan again changes nothing.

        Some callbacks also apply a plan that adds layers to those done before: see :meth:`added`.

        Raises:
            CompressError: another plan was applied before, or the plan does not fit the network.
        """
        if self.plan is None:
            raise CompressError(f"{type(self).__name__}: no plan was given; pass plan=, or a file that Plan.save wrote")
        record = known_structure(net, example)
        due = self._due(record)
        if due is None:
            return
        plan = self.resolve(spread(due, describe(net), record.profile), net, record.profile, example)
        writing = [n for n in layers_that_write(net, example) if {n, f"{n}.weight"} & plan.layers.keys()]
        self.attach(plan, net, record.profile, example)
        check_constraints(type(self).__name__, net, writing)
        applied = {**record.applied, self.kind: record.applied.get(self.kind, Plan({})).merge(plan)}
        asked = {**record.asked, self.kind: self.plan}
        write_structure(net, Structure(self.predict(plan, record.profile), applied, asked))

    @final
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Apply the plan before Lightning makes the optimizers and restores a checkpoint."""
        check_library(pl_module)
        mates = [c for c in callbacks_of(trainer) if isinstance(c, CompressionCallback)]
        check_order(mates)
        check_averaging(self, callbacks_of(trainer), self.steady)
        if stage == "fit":
            check_gradients(self, trainer, self.rests)
        if stage == "fit" and mates[0] is self:
            warn_of_eval_mode(network(pl_module))
        pl_module.configure_model()  # Lightning does so only later, and again: layers may not be there yet
        net = network(pl_module)
        measure.check_kind(net)
        if self.plan is not None:
            known = frozenset().union(*(c.knobs for c in mates))
            record = structure_of(net)
            plan = self.plan if record is None else spread(self.plan, describe(net), record.profile)
            plan.check(plan_names(net), known)
        keep_structure_in_checkpoints(pl_module)
        extend_configure_optimizers(pl_module)
        pl_module.to(surgery_device(trainer))
        record = structure_of(net)
        due = record is None or self._due(record) is not None
        with isolated_rng():  # new layers and user code draw, and the training begins as it would without them
            if due:
                self.calibrate(pl_module, train_batches(trainer))
            self.apply(net, example_of(pl_module, train_batches(trainer)))
            if due and self.removes:
                follow_removal(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop at a loss that is not finite."""
        check_loss(trainer, outputs)

    def finish(self, net: nn.Module) -> None:
        """Make final what the training of a network has found; once it is, change nothing."""

    @final
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finish before the checkpoint of the last epoch is written."""
        if ends_with_this_epoch(trainer):
            self.finish(network(pl_module))

    @final
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finish also when training was stopped early."""
        self.finish(network(pl_module))

    def added(self, asked: Plan, applied: Plan) -> Plan:
        """Return what this callback's plan adds to one that was applied before; most can add nothing.

        Args:
            asked: the part of the earlier plan that this callback understands.
            applied: what it was rounded to.

        Raises:
            CompressError: the plan is no addition, or the callback applies only one plan to a network.
        """
        raise CompressError(
            f"{type(self).__name__}: another plan was already applied to this network; start again from a fresh one"
        )

    def _due(self, record: Structure) -> Plan | None:
        """Return the part of the plan that is still to be applied; None if all was."""
        if self.kind not in record.applied:
            return self.plan
        asked, applied = record.asked.get(self.kind, Plan({})), record.applied[self.kind]
        if self.plan is None or self.plan == asked or self.own(self.plan) == applied:
            return None
        return self.added(self.own(asked), applied)

    @final
    def own(self, plan: Plan) -> Plan:
        """Return the part of a plan that this callback understands."""
        kept = {layer: {k: v for k, v in knobs.items() if k in self.knobs} for layer, knobs in plan.layers.items()}
        return Plan({layer: knobs for layer, knobs in kept.items() if knobs})


def warn_of_eval_mode(net: nn.Module) -> None:
    """Warn of a network in eval mode that is about to be trained: its batch norms will not follow its activations."""
    norms = [m for m in net.modules() if isinstance(m, BatchNormBase) and m.track_running_stats and not m.training]
    if norms and not net.training:
        rank_zero_warn(
            f"{type(net).__name__} is in eval mode: its {len(norms)} batch norms keep their statistics while it is "
            f"trained, and do not follow what compression changes; call .train() on it before the training"
        )


def known_structure(net: nn.Module, example: Any) -> Structure:
    """Return the record of a network; of one that no callback has touched, its profile alone."""
    record = structure_of(net)
    if record is None:
        return Structure(measure.measure(net, example))
    if not record.profile.steps:  # it comes from a packed file, which holds no more than the layers
        record.profile = replace(record.profile, steps=measure.measure(net, example).steps)
    return record


def knob_titles() -> dict[str, str]:
    """Return the title of each knob in tables, of all callbacks that this package ships or the program has imported."""
    return {knob: title for cls in classes_of(CompressionCallback) for knob, title in getattr(cls, "knobs", {}).items()}
