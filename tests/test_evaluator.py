"""The evaluator: the same plan, the same score; no trace between trials; never the test data."""

from __future__ import annotations

import copy
from functools import partial
from math import ceil

import cloudpickle
import numpy as np
import pytest
import torch
from lightning import Trainer
from torch.utils.data import DataLoader, Subset, default_collate

from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.core.costs.macs import MACs
from lightning_compress.core.errors import CompressError, NoEffectError, TrialFailedError
from lightning_compress.core.plan import Plan
from lightning_compress.pipeline.evaluator import Evaluator
from lightning_compress.testing.toys import QUIET, PlainModule, toy_data

EXAMPLE = torch.zeros(2, 1, 8, 8)
AGGRESSIVE = Plan({"conv1": {"channels": 0.25, "weight_bits": 2}, "stem.0": {"channels": 0.25}})
QUANTIZED = Plan({"conv1": {"weight_bits": 3, "act_bits": 6}})


@pytest.fixture(scope="module")
def module():
    torch.manual_seed(0)
    trained = PlainModule()
    Trainer(max_epochs=3, **QUIET).fit(trained, *toy_data(0))
    return trained


def evaluator(module, **settings):
    composition = Composition([ChannelPruning(), QuantizationAwareTraining()], module.model, EXAMPLE)
    train, validation = toy_data(0)
    return Evaluator(
        partial(copy.deepcopy, module), composition, train, validation=validation, **{"costs": [MACs()], **settings}
    )


def test_a_score_from_some_of_the_validation_batches(module):
    evaluate = evaluator(module, validation_batches=1, recalibration_batches=0)
    validation = toy_data(0)[1]
    first = DataLoader(Subset(validation.dataset, range(validation.batch_size)), validation.batch_size)
    trainer = Trainer(**QUIET)
    found = trainer.validate(copy.deepcopy(module), first, verbose=False)[0]
    assert len(validation) > 1
    assert evaluate(Plan({})).metrics == pytest.approx(found)
    assert evaluate.settings()["validation_batches"] == 1


@pytest.mark.parametrize("steps", [0, 4])
def test_the_same_score_again_and_no_trace_of_other_trials(module, steps):
    evaluate = evaluator(module, finetune_steps=steps)
    dense = evaluate(Plan({}))
    rough = evaluate(AGGRESSIVE)
    assert evaluate(Plan({})) == dense
    assert evaluate(AGGRESSIVE) == rough
    assert rough.costs["macs"] < dense.costs["macs"]


def test_the_dense_plan_scores_as_the_dense_network(module):
    score = evaluator(module, recalibration_batches=0)(Plan({}))
    trainer = Trainer(**QUIET)
    found = trainer.validate(copy.deepcopy(module), toy_data(0)[1], verbose=False)[0]
    assert score.metrics == pytest.approx(found)


def test_a_score_says_what_the_network_was_before(module):
    evaluate = evaluator(module, finetune_steps=1)
    found = Trainer(**QUIET).validate(copy.deepcopy(module), toy_data(0)[1], verbose=False)[0]
    before = evaluate(AGGRESSIVE).before
    assert {name: before[name] for name in found} == pytest.approx(found)
    assert before["macs"] == evaluate.composition.profile.macs
    for other in (evaluate.cheaper(0.1), evaluate.finetuned(2), cloudpickle.loads(cloudpickle.dumps(evaluate))):
        assert other(AGGRESSIVE).before == before


def test_recalibration_is_the_plain_average_of_batch_statistics(module):
    evaluate = evaluator(module, recalibration_batches=3)
    fresh = copy.deepcopy(module)
    evaluate._recalibrate(fresh)
    inputs = [batch[0] for batch in evaluate.recalibration]
    first = [module.model.stem[0](x) for x in inputs]
    expected = torch.stack([y.mean((0, 2, 3)) for y in first]).mean(0)
    torch.testing.assert_close(fresh.model.stem[1].running_mean, expected)
    assert fresh.model.stem[1].momentum == module.model.stem[1].momentum


def test_plans_that_round_to_one_network_share_a_key(module):
    evaluate = evaluator(module)
    near = [Plan({"conv1": {"channels": ratio}}) for ratio in (0.5, 0.51, 0.75)]
    keys = [evaluate.key(plan) for plan in near]
    assert keys[0] == keys[1] != keys[2]


def test_fine_tuning_helps_a_rough_plan(module):
    losses = [evaluator(module, finetune_steps=steps)(AGGRESSIVE).metrics["val_loss"] for steps in (0, 16)]
    assert losses[1] < losses[0]


def test_a_loss_that_is_not_a_number_fails_the_trial(module):
    class Diverging(PlainModule):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * float("nan")

    broken = Diverging()
    broken.load_state_dict(module.state_dict())
    with pytest.raises(TrialFailedError, match="training loss became nan"):
        evaluator(broken, finetune_steps=2)(AGGRESSIVE)


def test_a_metric_that_is_not_logged_is_named(module):
    with pytest.raises(CompressError, match=r"logs \['val_acc', 'val_loss'\], not 'accuracy'"):
        evaluator(module, monitor="accuracy")(Plan({}))


def test_settings_tell_networks_apart(module):
    other = copy.deepcopy(module)
    assert evaluator(module).settings() == evaluator(other).settings()
    with torch.no_grad():
        other.model.fc.bias[0] += 1
    assert evaluator(module).settings() != evaluator(other).settings()


def shuffled(generator=None, change=lambda image: image):
    """Train batches in an order of the loader's own, each image changed."""
    dataset = [(change(image), label) for image, label in toy_data(0)[0].dataset]
    return DataLoader(dataset, 32, shuffle=True, generator=generator)


def trained_on(module, loader, **settings):
    composition = Composition([ChannelPruning(), QuantizationAwareTraining()], module.model, EXAMPLE)
    return Evaluator(partial(copy.deepcopy, module), composition, loader, validation=toy_data(0)[1], **settings)


def test_a_loader_with_a_generator_of_its_own_gives_the_same_score_again_and_goes_on_as_if_untouched(module):
    generator = torch.Generator().manual_seed(7)
    before = generator.get_state()
    evaluate = trained_on(module, shuffled(generator), finetune_steps=5)
    score = evaluate(AGGRESSIVE)
    assert evaluate(AGGRESSIVE) == score
    assert cloudpickle.loads(cloudpickle.dumps(evaluate))(AGGRESSIVE) == score
    assert torch.equal(generator.get_state(), before)
    generator.manual_seed(8)  # wherever the dense training left it
    assert trained_on(module, shuffled(generator), finetune_steps=5)(AGGRESSIVE) == score


def test_several_loaders_with_generators_of_their_own(module):
    class Both(PlainModule):
        def training_step(self, batch, batch_idx):
            return sum(super(Both, self).training_step(part, batch_idx) for part in batch.values())

    both = Both()
    both.load_state_dict(module.state_dict())
    loaders = {name: shuffled(torch.Generator()) for name in "ab"}
    evaluate = trained_on(both, loaders, finetune_steps=5, recalibration_batches=0)
    assert evaluate(AGGRESSIVE) == evaluate(AGGRESSIVE)
    assert evaluate.settings()["train_data"] is not None


@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        ({"recalibration_batches": 2}, True),
        ({"recalibration_batches": 0, "finetune_steps": 1}, True),
        ({"recalibration_batches": 0}, False),
    ],
)
def test_settings_tell_train_data_apart_where_they_count(module, settings, counts):
    mine, same, other = (
        trained_on(module, shuffled(change=change), **settings).settings()
        for change in (abs, abs, lambda image: image + 1)
    )
    assert mine == same
    assert (mine != other) == counts


def test_train_data_that_no_seed_reaches_do_not_end_a_search_that_goes_on(module):
    random = np.random.default_rng()

    def collate(batch):
        images, labels = default_collate(batch)
        return images + float(random.normal()), labels

    first, second = (
        trained_on(module, DataLoader(toy_data(0)[1].dataset, 32, collate_fn=collate), finetune_steps=1).settings()
        for _ in range(2)
    )
    assert first == second


def test_a_cheaper_evaluator_holds_no_second_copy_of_the_data(module):
    evaluate = evaluator(module)
    part = evaluate.cheaper(0.5)
    assert part.train is evaluate.train
    assert part.validation[0].batches[0] is evaluate.validation[0].batches[0]


def test_the_space_runs_in_the_order_of_layers(module):
    space = Composition([ChannelPruning(), QuantizationAwareTraining()], module.model, EXAMPLE).space()
    assert [c.layer for c in space.choices if c.knob == "weight_bits"] == ["stem.0", "conv1", "conv2", "fc"]


def test_nothing_to_choose_is_an_error(module):
    callback = QuantizationAwareTraining(weight_bits=[], act_bits=[])
    with pytest.raises(NoEffectError, match="leave nothing to choose"):
        Composition([callback], module.model, EXAMPLE).space()


@pytest.mark.parametrize(("applied", "plan"), [(None, AGGRESSIVE), (QUANTIZED, QUANTIZED)])
def test_a_pickled_evaluator_scores_the_same(module, applied, plan):
    """Also one whose network has transforms already, as an earlier stage may leave it."""
    trained = copy.deepcopy(module)
    if applied is not None:
        Composition([QuantizationAwareTraining()], trained.model, EXAMPLE).apply(trained.model, applied)
    evaluate = evaluator(trained, finetune_steps=3)
    score = evaluate(plan)
    other = cloudpickle.loads(cloudpickle.dumps(evaluate))
    assert other(plan) == score
    assert other.key(plan) == evaluate.key(plan)
    assert cloudpickle.loads(cloudpickle.dumps(other))(plan) == score


def test_a_cheaper_evaluator_sees_a_share_of_the_batches_and_steps(module):
    whole = evaluator(module, finetune_steps=6)
    before = whole(AGGRESSIVE)
    part = whole.cheaper(0.4)
    assert (len(part.validation[0]), len(part.recalibration), part.finetune_steps) == (
        ceil(0.4 * len(whole.validation[0])),
        ceil(0.4 * len(whole.recalibration)),
        3,
    )
    assert part(AGGRESSIVE) != before
    assert whole(AGGRESSIVE) == before
    none = evaluator(module, recalibration_batches=0).cheaper(0.1)
    assert (len(none.recalibration), none.finetune_steps, len(none.validation[0])) == (0, 0, 1)


def test_more_fine_tuning_is_another_score_of_the_same_plan(module):
    evaluate = evaluator(module, finetune_steps=2)
    longer = evaluate.finetuned(6)
    assert longer(AGGRESSIVE) == evaluator(module, finetune_steps=6)(AGGRESSIVE) != evaluate(AGGRESSIVE)
    assert evaluate.finetune_steps == 2
    with pytest.raises(CompressError, match="finetune_steps is 2, and the search itself scores after 2"):
        evaluate.finetuned(2)
