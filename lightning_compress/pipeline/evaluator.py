"""The evaluator: plan -> score. The only file of the search that knows Lightning.

A fresh network from the factory, the plan applied, batch norms recalibrated on train batches, optionally a few steps of
fine-tuning, then validated on a split carved from train. Without recalibration the score of a pruned or low-bit
network is mostly noise (EagleEye, arXiv 2007.02491, section 3). The same seed serves every trial, also for generators
that loaders have of their own, so the same plan gets the same score; the test loader is never opened.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import BytesIO
from itertools import islice
from math import ceil, isfinite
from typing import Any

import cloudpickle
import torch
from lightning import LightningModule
from lightning.pytorch.callbacks import Callback

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.callbacks.base.device import CPU, surgery_device
from lightning_compress.callbacks.base.stop_at_nan import StopAtNaN
from lightning_compress.core.costs.cost import Cost
from lightning_compress.core.digest import digest_of
from lightning_compress.core.errors import CompressError, TrialFailedError
from lightning_compress.core.plan import Plan
from lightning_compress.core.profile import Profile
from lightning_compress.pipeline.quiet import quiet, quiet_trainer
from lightning_compress.pipeline.recalibration import TrainingForward, recalibrate
from lightning_compress.pipeline.seeding import digest_of_data, seeded
from lightning_compress.search.trial import Score
from lightning_compress.surgery.inputs import combined, each_of
from lightning_compress.surgery.measure import samples_in
from lightning_compress.surgery.structure import network


class Batches:
    """Batches held in memory, so that every candidate sees the same ones and none pays for loading them."""

    def __init__(self, loader: Iterable[Any], limit: int | None = None) -> None:
        self.batches = list(islice(loader, limit))

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def held(loaders: Any, limit: int | None = None) -> list[Batches]:
    """Return the validation batches of a loader, or of each of several, which Lightning runs one after the other.

    Args:
        loaders: one, or several as Lightning takes them.
        limit: batches of each; None takes all.
    """
    return [Batches(loader, limit) for loader in each_of(loaders)]


class Evaluator:
    """Scores plans.

    Args:
        make_module: makes a fresh module with the trained weights; called once a trial.
        composition: the callbacks, bound to the network of such a module.
        train: batches for recalibration and fine-tuning.
        validation: batches for the score, from train data that is not in ``train``; never test data. Of several loaders
            metrics have the names that Lightning gives them, such as ``val_acc/dataloader_idx_0``.
        monitor: the metric that ``validation_step`` must log.
        finetune_steps: optimizer steps before the score.
        recalibration_batches: how many train batches the batch norms see; 0 turns recalibration off.
        callbacks: more Lightning callbacks for the fine-tuning, such as distillation.
        seed: of every trial.
        device: that candidates are trained and validated on, or what a worker has in its place.
        validation_batches: how many of each loader in ``validation`` are used; None takes all.
        costs: that a score has beside the metrics, by their names.

    Attributes:
        before: metrics and costs of the network as it is, without any plan and without recalibration.
    """

    def __init__(
        self,
        make_module: Callable[[], LightningModule],
        composition: Composition,
        train: Iterable[Any],
        *,
        validation: Iterable[Any],
        monitor: str = "val_acc",
        finetune_steps: int = 0,
        recalibration_batches: int = 10,
        callbacks: Sequence[Callback] = (),
        seed: int = 0,
        device: torch.device = CPU,
        validation_batches: int | None = None,
        costs: Sequence[Cost] = (),
    ) -> None:
        self.make_module, self.composition = make_module, composition
        self.monitor, self.finetune_steps, self.callbacks, self.seed = monitor, finetune_steps, list(callbacks), seed
        self.device, self.costs = device, tuple(map(composition.priced, costs))
        self.train = train
        with seeded(seed, train, validation), quiet():
            self.recalibration = Batches(combined(train, "max_size_cycle"), recalibration_batches)
            self.validation = held(validation, validation_batches)  # seeded too: a loader may shuffle
            self._make_trainers()
            # Measured here and once: evaluators of every fidelity and all workers have the same.
            self.before = {**self._validated(make_module()), **self._costs(composition.profile)}
        self._first = self._digest_of_train()

    @property
    def samples(self) -> int:
        """Number of samples of the first validation loader: the first dimension of the first tensor of each batch."""
        return sum(samples_in(batch) for batch in self.validation[0])

    def _digest_of_train(self) -> str | None:
        """Return a digest of the first train batches; None if no seed makes them reproducible."""
        first = digest_of_data(self.seed, self.train)
        return None if first is None else digest_of([first, self.recalibration.batches])

    def _make_trainers(self) -> None:
        self._validator = quiet_trainer(self.device)
        self._recalibrator = quiet_trainer(self.device, callbacks=[TrainingForward()])

    def __getstate__(self) -> dict[str, Any]:
        # A worker makes its own trainers: these hold the last candidate. And it may have another device.
        state = {k: v for k, v in self.__dict__.items() if k not in ("_validator", "_recalibrator")}
        file = BytesIO()
        torch.save(state, file, pickle_module=cloudpickle)
        return {"device": self.device, "saved": file.getvalue()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.device = state["device"]
        with quiet():
            self._make_trainers()
        device = surgery_device(self._validator)

        def place(storage: torch.UntypedStorage, saved_from: str) -> torch.UntypedStorage | None:
            return None if saved_from == "cpu" else storage.to(device=device)  # states of generators stay on the CPU

        loaded = torch.load(BytesIO(state["saved"]), place, weights_only=False)  # type: ignore[arg-type]
        self.__dict__.update(loaded)

    def __copy__(self) -> Evaluator:
        # Else by the two methods above, and all data would be held twice.
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        return other

    def cheaper(self, share: float) -> Evaluator:
        """Return the same evaluator with a share of its batches and fine-tuning steps.

        Args:
            share: in (0, 1]; at least one batch or step is left of each that there was.
        """
        other = copy.copy(self)
        other.validation = [Batches(each, ceil(share * len(each))) for each in self.validation]
        other.recalibration = Batches(self.recalibration, ceil(share * len(self.recalibration)))
        other.finetune_steps = ceil(share * self.finetune_steps)
        return other

    def finetuned(self, steps: int) -> Evaluator:
        """Return the same evaluator with more fine-tuning before the score.

        Args:
            steps: of the optimizer.

        Raises:
            CompressError: they are no more than this one's.
        """
        if steps <= self.finetune_steps:
            raise CompressError(
                f"correlation: finetune_steps is {steps}, and the search itself scores after {self.finetune_steps}; "
                f"set it to more than that"
            )
        other = copy.copy(self)
        other.finetune_steps = steps
        return other

    def key(self, plan: Plan) -> str:
        """Return digest of the network that the plan materializes to: equal keys need only one evaluation."""
        return self.composition.resolve(plan).digest

    def settings(self) -> dict[str, Any]:
        """Return what a score depends on beside the plan, as plain types, for the journal's fingerprint."""
        return {
            "callbacks": self.composition.settings(),
            "monitor": self.monitor,
            "finetune_steps": self.finetune_steps,
            "recalibration_batches": len(self.recalibration),
            "validation_batches": sum(map(len, self.validation)),
            "validation_data": digest_of([each.batches for each in self.validation]),
            "train_data": self._first if len(self.recalibration) or self.finetune_steps else None,
            "seed": self.seed,
            "weights": digest_of(network(self.make_module()).state_dict()),
        }

    def __call__(self, plan: Plan) -> Score:
        """Return the metrics that validation logs, and the costs of the network.

        Raises:
            TrialFailedError: a loss or metric is not finite.
            CompressError: the monitored metric is not logged.
        """
        with seeded(self.seed, self.train), quiet():
            module = self.make_module().to(surgery_device(self._validator))
            self.composition.apply(network(module), plan)
            self._recalibrate(module)
            if self.finetune_steps:
                self._finetune(module)
                self._recalibrate(module)
            metrics = self._validated(module)
        if self.monitor not in metrics:
            raise CompressError(
                f"evaluator: validation_step of {type(module).__name__} logs {sorted(metrics)}, not {self.monitor!r}; "
                f"set monitor to one of them"
            )
        broken = [name for name, value in metrics.items() if not isfinite(value)]
        if broken:
            raise TrialFailedError(f"the metrics {broken} are not finite")
        return Score(metrics, self._costs(self.composition.predict(self.composition.resolve(plan))), self.before)

    def _costs(self, profile: Profile) -> dict[str, float]:
        return {cost.name: float(cost(profile)) for cost in self.costs}

    def _validated(self, module: LightningModule) -> dict[str, float]:
        """Return the metrics that validation logs."""
        self._validator.validate(module, self.validation, verbose=False)
        return {name: float(value) for name, value in self._validator.callback_metrics.items()}

    def _recalibrate(self, module: LightningModule) -> None:
        if len(self.recalibration):
            recalibrate(module, self.recalibration, self._recalibrator)

    def _finetune(self, module: LightningModule) -> None:
        callbacks = [*self.callbacks, StopAtNaN()]
        trainer = quiet_trainer(self.device, callbacks=callbacks, max_steps=self.finetune_steps, limit_val_batches=0)
        trainer.fit(module, self.train)
