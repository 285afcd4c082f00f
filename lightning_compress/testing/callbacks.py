"""The contracts of compression callbacks. Sub-class, and give the fixture ``make``: module -> callbacks in order."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from lightning_compress.callbacks.base.callback import CompressionCallback, knob_titles
from lightning_compress.core.costs.packed_bytes import PackedBytes
from lightning_compress.core.errors import CompressError
from lightning_compress.core.plan import Plan
from lightning_compress.export.load import inspect, load
from lightning_compress.export.save import save
from lightning_compress.surgery import measure
from lightning_compress.surgery.mask import measured
from lightning_compress.surgery.structure import KEY, Structure, applied_structure, network, write_structure
from lightning_compress.testing.toys import QUIET, SIZE, PlainModule, toy_data

Make = Callable[[LightningModule], Sequence[Callback]]

EXAMPLE = torch.zeros(2, 1, SIZE, SIZE)


def plan_of(callback: CompressionCallback, module: LightningModule) -> Plan:
    """Return a plan from a callback's own choices: of each, the value in the middle."""
    net = network(module)
    choices = callback.choices(net, measure.measure(net, EXAMPLE), EXAMPLE)
    knobs: dict[str, dict[str, float]] = {}
    for choice in choices:
        knobs.setdefault(choice.layer, {})[choice.knob] = choice.values[(len(choice.values) - 1) // 2]
    return Plan(knobs)


def fresh(cls: type[LightningModule] = PlainModule) -> Any:
    """Return a module that has the same weights every time."""
    seed_everything(1, verbose=False)
    return cls()


def trainer(epochs: int, callbacks: Sequence[Callback], **settings: Any) -> Trainer:
    """Return a Trainer that is silent and writes nothing."""
    return Trainer(max_epochs=epochs, callbacks=list(callbacks), **{**QUIET, **settings})


def fitted(
    make: Make,
    epochs: int,
    folder: Path | None = None,
    ckpt: Path | None = None,
    cls: type[LightningModule] = PlainModule,
) -> Any:
    """Return a module that was trained with callbacks; with a folder, its checkpoints and ``a.ckpt`` are there."""
    module = fresh(cls)
    callbacks = list(make(module))
    seed_everything(2, verbose=False)
    if folder is not None:
        callbacks.append(ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1))
    run = trainer(epochs, callbacks, enable_checkpointing=folder is not None)
    run.fit(module, *toy_data(0), ckpt_path=ckpt)
    if folder is not None:
        run.save_checkpoint(folder / "a.ckpt")
    return module


def assert_equal_states(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """Assert that two ``state_dict()`` are equal bit for bit."""
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


class TrainingContract:
    """Contract of every callback that takes part in a training, also of one that only teaches."""

    @pytest.fixture
    def make(self) -> Make:
        """Return the callbacks under test, for a module."""
        raise NotImplementedError

    def test_resumed_training_equals_uninterrupted_training(self, make, tmp_path) -> None:
        whole = fitted(make, 4, tmp_path)
        resumed = fitted(make, 4, ckpt=tmp_path / "epoch=1.ckpt")
        assert_equal_states(whole.state_dict(), resumed.state_dict())

    def test_the_optimizer_holds_exactly_the_live_parameters(self, make) -> None:
        module = fresh()
        run = trainer(1, make(module), limit_train_batches=1)
        run.fit(module, *toy_data(0))
        held = {id(p) for o in run.optimizers for group in o.param_groups for p in group["params"]}
        assert held == {id(p) for p in module.parameters()}


class CompressionContract(TrainingContract):
    """Checkpoints carry the structure, a set-up network stays as it is, and what was trained can be packed."""

    def test_validate_with_a_checkpoint_gives_the_metrics_of_training(self, make, tmp_path) -> None:
        module = fitted(make, 2, tmp_path)
        _, val = toy_data(0)
        expected = trainer(1, []).validate(module, val, verbose=False)[0]
        other = fresh()
        found = trainer(1, make(other)).validate(other, val, ckpt_path=tmp_path / "a.ckpt", verbose=False)[0]
        assert found == expected

    def test_the_checkpoint_of_the_last_epoch_is_the_network_that_is_left(self, make, tmp_path) -> None:
        module = fitted(make, 2, tmp_path)
        state = torch.load(tmp_path / "epoch=1.ckpt", weights_only=False)["state_dict"]
        assert_equal_states({k: state[k] for k in module.state_dict()}, module.state_dict())

    def test_setup_again_changes_nothing(self, make) -> None:
        module = fitted(make, 1)
        before = copy.deepcopy(module.state_dict())
        trainer(1, make(fresh())).validate(module, toy_data(0)[1], verbose=False)
        assert_equal_states(before, module.state_dict())

    def test_what_was_trained_packs_and_loads(self, make, tmp_path) -> None:
        module = fitted(make, 1).eval()
        file = save(module, tmp_path / "a.safetensors")
        loaded = load(file, fresh())
        x = next(iter(toy_data(0)[1]))[0]
        torch.testing.assert_close(loaded(x), module(x), rtol=1e-3, atol=1e-3)
        profile = applied_structure(network(module)).profile
        assert inspect(file).profile == measured(network(module), profile)
        assert PackedBytes()(profile) >= file.stat().st_size


class CallbackContract(CompressionContract):
    """Contract of one compression callback alone: its plan, its knobs, and what it predicts."""

    @pytest.fixture
    def callback(self, make) -> CompressionCallback:
        """Return the only callback that ``make`` makes."""
        (callback,) = make(fresh())
        return callback

    def test_its_knobs_have_titles(self, callback) -> None:
        assert callback.knobs
        assert knob_titles().keys() >= set(callback.knobs)

    def test_its_choices_are_of_its_knobs_and_make_a_plan(self, callback) -> None:
        module = fresh()
        plan = plan_of(callback, module)
        assert plan.knobs <= set(callback.knobs)
        net = network(module)
        rounded = callback.resolve(plan, net, measure.measure(net, EXAMPLE), EXAMPLE)
        assert callback.resolve(rounded, net, measure.measure(net, EXAMPLE), EXAMPLE) == rounded

    def test_what_it_predicts_is_what_it_makes(self, callback) -> None:
        module = fresh()
        net = network(module)
        profile = measure.measure(net, EXAMPLE)
        predicted = callback.predict(callback.resolve(callback.plan, net, profile, EXAMPLE), profile)
        trainer(1, [callback]).validate(module, toy_data(0)[1], verbose=False)
        assert applied_structure(net).profile == predicted

    def test_copies_of_a_trained_module_are_modules_of_their_own(self, make) -> None:
        module = fitted(make, 1)
        for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert_equal_states(module.state_dict(), copied.state_dict())
            optimizers = [leaf for leaf in tree_leaves(copied.configure_optimizers()) if isinstance(leaf, Optimizer)]
            stepped = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
            assert stepped == {id(p) for p in copied.parameters()}
            write_structure(network(copied), Structure(applied_structure(network(module)).profile))
            checkpoint: dict[str, Any] = {}
            copied.on_save_checkpoint(checkpoint)
            assert not checkpoint[KEY]["applied"]

    def test_another_plan_on_a_compressed_network_is_refused(self, make, callback) -> None:
        module = fitted(make, 1)
        knob = next(iter(callback.plan.knobs))
        net, used = network(fresh()), set(callback.plan.knob(knob).values())
        choices = callback.choices(net, measure.measure(net, EXAMPLE), EXAMPLE)
        values = (value for choice in choices if choice.knob == knob for value in reversed(choice.values))
        other = next((value for value in values if value not in used), 0)
        changed = callback.with_plan(Plan({layer: {knob: other} for layer in callback.plan.layers}))
        with pytest.raises(CompressError, match="already applied"):
            trainer(1, [changed]).validate(module, toy_data(0)[1], verbose=False)
