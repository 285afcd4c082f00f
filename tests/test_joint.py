"""ADMM in a Trainer: one round against the formulas, the limit, what is frozen, and the proximal step."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback

import lightning_compress as lc
from lightning_compress.callbacks.joint import JointSparsityQuantization
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.core.costs.weight_bits import WeightBits
from lightning_compress.core.errors import CompressError, InfeasibleBudgetError
from lightning_compress.quantization.admm_projections import nonzero, total
from lightning_compress.quantization.kmeans import all_bits
from lightning_compress.quantization.size_model import FileAccount, WeightBitsAccount
from lightning_compress.surgery.mask import mask_of
from lightning_compress.surgery.structure import structure_of
from lightning_compress.surgery.transforms import raw_weight, weight_transforms
from lightning_compress.testing.toys import QUIET, PlainModule, toy_data

LAYERS = ("stem.0", "conv1", "conv2", "fc")
EVERYWHERE = {name: {"joint": 1} for name in LAYERS}
EXAMPLE = torch.zeros(2, 1, 8, 8)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def train(callbacks, epochs=12, optimizer=sgd, module=None, ckpt=None, **others):
    seed_everything(1, verbose=False)
    module = PlainModule() if module is None else module
    module.configure_optimizers = lambda: optimizer(module.parameters())
    trainer = Trainer(max_epochs=epochs, callbacks=callbacks, **{**QUIET, **others})
    trainer.fit(module, *toy_data(0), ckpt_path=ckpt)
    return module, float(trainer.callback_metrics["val_acc"])


def state_of(net, name):
    return weight_transforms(net.get_submodule(name))[0]


@pytest.mark.parametrize("optimizer", [sgd, lambda p: torch.optim.AdamW(p, lr=0.01)], ids=["sgd", "adamw"])
@pytest.mark.parametrize("account", [WeightBitsAccount(), FileAccount()], ids=lambda a: type(a).__name__)
def test_training_ends_within_the_limit_near_the_dense_accuracy(optimizer, account, tmp_path):
    dense, accuracy = train([], 4, optimizer)
    callback = JointSparsityQuantization(EVERYWHERE, limits=(0.3, 0.15), rho=0.5, account=account)
    module, compressed = train([callback], 12, optimizer, dense)
    profile = structure_of(module.model).profile
    sizes = {layer.name: layer.weights for layer in profile.weighted}
    counts = {layer.name: layer.nonzeros for layer in profile.weighted}
    bits = {layer.name: layer.weight_bits for layer in profile.weighted}
    limit = 0.15 * 32 * sum(sizes.values())
    assert 0.9 * limit < total(counts, sizes, bits, account) <= limit
    assert compressed >= accuracy - 0.05
    for name in LAYERS:
        layer = module.model.get_submodule(name)
        weight = layer.weight.detach()
        assert int((mask_of(layer)).sum()) == counts[name]
        assert len(weight[mask_of(layer)].unique()) <= 2 ** bits[name]
        assert (weight[~mask_of(layer)] == 0).all()
    file = lc.save(module.eval(), tmp_path / "a")
    x = next(iter(toy_data(0)[1]))[0]
    torch.testing.assert_close(lc.load(file, PlainModule())(x), module(x), rtol=1e-3, atol=1e-3)
    assert WeightBits()(lc.inspect(file).profile) == sum(bits[n] * counts[n] for n in LAYERS)


def test_one_round_is_the_three_steps_of_admm():
    torch.manual_seed(0)
    module = PlainModule()
    callback = JointSparsityQuantization(EVERYWHERE, limits=(0.05,))
    callback.apply(module.model, EXAMPLE)
    net = module.model
    dense = {n: raw_weight(net.get_submodule(n)).detach().clone() for n in LAYERS}
    with torch.no_grad():
        for name in LAYERS:
            state_of(net, name).dual.copy_(0.01 * torch.randn_like(dense[name]))
    duals = {n: state_of(net, n).dual.clone() for n in LAYERS}
    residual = callback._project(net, 0.05, free_bits=True, first=True)
    limit = 0.05 * 32 * sum(w.numel() for w in dense.values())
    scores = torch.cat([w.abs().flatten() for w in dense.values()])
    tau = scores.sort(descending=True).values[int(limit // 4) - 1]
    squares = number = 0
    for name in LAYERS:
        state, weight = state_of(net, name), raw_weight(net.get_submodule(name)).detach()
        assert torch.equal(weight, torch.where(dense[name].abs() >= tau, dense[name], 0))
        target = weight + duals[name]
        book = all_bits(nonzero(target), [state.bits])[state.bits]
        distance = (target[..., None] - torch.from_numpy(book.centroids).float()).abs()
        nearest = torch.from_numpy(book.centroids).float()[distance.argmin(-1)]
        expected = torch.where(target == 0, 0, nearest)
        torch.testing.assert_close(state.duplicate, expected, atol=1e-6, rtol=0)
        torch.testing.assert_close(state.dual, duals[name] + weight - state.duplicate)
        squares, number = squares + float((weight - state.duplicate).square().sum()), number + weight.numel()
    assert residual == pytest.approx(squares / number, rel=1e-5)
    bits = {n: state_of(net, n).bits for n in LAYERS}
    kept = {n: int(state_of(net, n).kept) for n in LAYERS}
    assert sum(bits[n] * kept[n] for n in LAYERS) <= limit


def size_of(net, account):
    found = structure_of(net).profile.weighted
    sizes, counts = {p.name: p.weights for p in found}, {p.name: p.nonzeros for p in found}
    return total(counts, sizes, {p.name: p.weight_bits for p in found}, account)


@given(
    seed=st.integers(0, 20),
    account=st.sampled_from([WeightBitsAccount(), FileAccount()]),
    factors=st.lists(st.floats(1, 200), min_size=1, max_size=3),
    start=st.integers(1, 8),
    free=st.lists(st.booleans()),
)
@settings(deadline=None, max_examples=20)
def test_any_limits_above_the_smallest_are_met_after_each_projection(seed, account, factors, start, free):
    torch.manual_seed(seed)
    net = PlainModule().model
    sizes = {n: net.get_submodule(n).weight.numel() for n in LAYERS}
    smallest = sum(account.layer(1, size, 1) for size in sizes.values()) / (32 * sum(sizes.values()))
    limits = sorted((min(factor * smallest, 1) for factor in factors), reverse=True)
    callback = JointSparsityQuantization(EVERYWHERE, limits, account=account, start_bits=start)
    callback.apply(net, EXAMPLE)
    for number, limit in enumerate(limits):
        callback._project(net, limit, free_bits=number < len(free) and free[number], first=number == 0)
        counts = {n: int(raw_weight(net.get_submodule(n)).count_nonzero()) for n in LAYERS}
        bits = {n: state_of(net, n).bits for n in LAYERS}
        assert total(counts, sizes, bits, account) <= limit * 32 * sum(sizes.values())
        assert min(counts.values()) >= 1
        for name in LAYERS:  # as if training went on
            raw_weight(net.get_submodule(name)).data.add_(0.01 * torch.randn(net.get_submodule(name).weight.shape))
    callback._freeze(net, limits[-1])
    assert size_of(net, account) <= limits[-1] * 32 * sum(sizes.values())


@pytest.mark.parametrize("limits", [(0.02,), (0.5, 0.02)], ids=["wide at the start", "wide under an earlier limit"])
@pytest.mark.parametrize("bits_until", [0.1, 0.5])
def test_bits_whose_codebooks_do_not_fit_are_lowered(limits, bits_until):
    callback = JointSparsityQuantization(EVERYWHERE, limits, account=FileAccount(), bits_until=bits_until)
    net = train([callback], 8)[0].model
    weights = sum(layer.weights for layer in structure_of(net).profile.weighted)
    assert 0.01 * 32 * weights < size_of(net, FileAccount()) <= 0.02 * 32 * weights


class Stop(Callback):
    def on_train_batch_end(self, trainer, *args):
        trainer.should_stop = True


def test_a_training_that_stops_under_an_early_limit_leaves_within_the_last():
    callback = JointSparsityQuantization(EVERYWHERE, (0.5, 0.02), account=FileAccount(), every=2)
    net = train([callback, Stop()], 20)[0].model
    weights = sum(layer.weights for layer in structure_of(net).profile.weighted)
    assert size_of(net, FileAccount()) <= 0.02 * 32 * weights


@pytest.mark.parametrize("untrained", [{"max_epochs": 0}, {"max_epochs": 1, "max_steps": 0}], ids=["epochs", "steps"])
@pytest.mark.parametrize("account", [WeightBitsAccount(), FileAccount()], ids=lambda a: type(a).__name__)
def test_a_network_that_is_not_trained_is_within_the_limit(untrained, account):
    seed_everything(1, verbose=False)
    module = PlainModule()
    callback = JointSparsityQuantization(EVERYWHERE, limits=(0.5, 0.1), account=account)
    for _ in range(2):  # codes that are frozen stay
        Trainer(callbacks=[callback], **{**QUIET, **untrained}).fit(module, *toy_data(0))
        weighted = structure_of(module.model).profile.weighted
        counts, sizes, bits = (
            {w.name: getattr(w, n) for w in weighted} for n in ("nonzeros", "weights", "weight_bits")
        )
        limit = 0.1 * 32 * sum(sizes.values())
        assert 0.9 * limit < total(counts, sizes, bits, account) <= limit
        for name in LAYERS:
            weight = module.model.get_submodule(name).weight
            assert int(weight.count_nonzero()) == counts[name]
            assert len(weight[weight != 0].unique()) <= 2 ** bits[name]


def test_a_layer_that_begins_with_zeros_is_trained():
    module = PlainModule()
    torch.nn.init.zeros_(module.model.fc.weight)
    callback = JointSparsityQuantization(EVERYWHERE, limits=(0.1,))
    _, compressed = train([callback], module=module)
    _, started = train([JointSparsityQuantization(EVERYWHERE, limits=(0.1,))])
    assert module.model.fc.weight.count_nonzero() > 4
    assert compressed >= started - 0.1
    profile = structure_of(module.model).profile
    assert WeightBits()(profile) <= 0.1 * 32 * sum(layer.weights for layer in profile.weighted)


def test_limits_fall_up_to_their_share_of_the_training():
    callback = JointSparsityQuantization(EVERYWHERE, limits=(0.3, 0.2, 0.1), fall=0.2)
    assert [callback._limit(now) for now in (0, 0.09, 0.1, 0.19, 0.2, 0.9)] == [0.3, 0.3, 0.2, 0.2, 0.1, 0.1]
    assert JointSparsityQuantization(EVERYWHERE, limits=(0.3, 0.1), fall=0)._limit(0) == 0.1


def test_what_a_projection_cuts_stays_zero_until_the_next():
    cut = []

    class Watch(JointSparsityQuantization):
        def on_train_batch_end(self, trainer, pl_module, *args):
            super().on_train_batch_end(trainer, pl_module, *args)
            cut.append(int((pl_module.model.conv1.weight == 0).sum()))

    train([Watch(EVERYWHERE, limits=(0.05,), every=4, bits_until=1, end=1)], 2)
    assert cut[0] > 0
    assert all(len(set(cut[i : i + 4])) == 1 for i in range(0, 16, 4))


def test_frozen_codes_stay_and_values_move():
    frozen = []

    class Watch(JointSparsityQuantization):
        def on_train_batch_end(self, trainer, pl_module, *args):
            super().on_train_batch_end(trainer, pl_module, *args)
            state = state_of(pl_module.model, "conv1")
            if state.frozen:
                frozen.append((state.indices.clone(), state.used.detach().clone()))

    train([Watch(EVERYWHERE, limits=(0.1,))], 8)
    assert len(frozen) > 5
    assert all(torch.equal(codes, frozen[0][0]) for codes, _ in frozen)
    assert not torch.equal(frozen[0][1], frozen[-1][1])


@pytest.mark.parametrize(("bad", "message"), [
    ({"limits": (0.05, 0.1)}, "limits must fall"), ({"limits": ()}, "limits must fall"), ({"rho": 0}, "0 < rho < inf"),
    ({"bits_until": 0.9, "end": 0.5}, "bits_until <= end"), ({"fall": 0.8}, r"0 <= fall <= end, .* and fall 0.8"),
    ({"start_bits": 16}, r"start_bits one of them, got bits \[1, 2, 3, 4, 5, 6, 7, 8\] and start_bits 16"),
    ({"bits": (1, 2)}, r"start_bits one of them, got bits \[1, 2\] and start_bits 4"),
    ({"bits": (2.5, 4)}, r"whole numbers from 1 to 8, .* got bits \[2.5, 4\]"),
    ({"bits": (0, 4)}, "whole numbers from 1 to 8"), ({"bits": (4, 9)}, "whole numbers from 1 to 8"),
    ({"bits": ()}, "whole numbers from 1 to 8"),
    ({"every": -2}, "every must be .* 1 or more, .* got -2"), ({"every": 0}, "got 0"), ({"every": 1.5}, "got 1.5"),
])  # fmt: skip
def test_bad_settings_are_named(bad, message):
    with pytest.raises(CompressError, match=message):
        JointSparsityQuantization(EVERYWHERE, **bad)


def test_bad_plans_and_limits_are_named():
    with pytest.raises(CompressError, match="joint: layer 'bn1' is no Conv or Linear"):
        JointSparsityQuantization({"bn1": {"joint": 1}}).apply(PlainModule().model, EXAMPLE)
    net = PlainModule().model
    JointSparsityQuantization(EVERYWHERE).apply(net, EXAMPLE)
    with pytest.raises(CompressError, match="'conv1' is already quantized by JointCodebook"):
        QuantizationAwareTraining({"conv1": {"weight_bits": 4}}).apply(net, EXAMPLE)
    with pytest.raises(InfeasibleBudgetError, match=r"limit of 1e-06 .* cannot be met.* limit to 0.003757 or more"):
        train([JointSparsityQuantization(EVERYWHERE, limits=(0.1, 1e-6), account=FileAccount())], 1)
    train([JointSparsityQuantization(EVERYWHERE, limits=(0.1, 0.003757), account=FileAccount())], 4)
