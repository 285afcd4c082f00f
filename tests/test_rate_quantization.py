"""Quantization by rate: files within their budget before and after training, what codes cost, and what is refused."""

from __future__ import annotations

import copy
from functools import partial
from math import inf

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning import Trainer

import lightning_compress as lc
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.callbacks.rate_quantization import RateQuantization
from lightning_compress.callbacks.weight_pruning import WeightPruning
from lightning_compress.core.costs.macs import MACs
from lightning_compress.core.costs.packed_bytes import PackedBytes
from lightning_compress.core.errors import CompressError, InfeasibleBudgetError
from lightning_compress.core.plan import Plan
from lightning_compress.pipeline.planners.coded_bits import CodedBits
from lightning_compress.pipeline.planners.limit import Limit
from lightning_compress.quantization.code_rates import CodeRates, codes_within
from lightning_compress.quantization.coders.fixed_width import FixedWidth
from lightning_compress.quantization.coders.range_coded import RangeCoded
from lightning_compress.quantization.quantizers.rate_grid import RateGrid
from lightning_compress.quantization.rate_distortion import RateProblem, stream_bytes, within
from lightning_compress.surgery.structure import structure_of
from lightning_compress.surgery.transforms import weight_transforms
from lightning_compress.testing.toys import QUIET, FullData, FullModule, PlainModule, ToyNet, toy_data

CODER = RangeCoded()
LAYERS = ("stem.0", "conv1", "conv2", "fc")
make_trainer = partial(Trainer, **{k: v for k, v in QUIET.items() if k not in ("logger", "enable_checkpointing")})


def module(cls=PlainModule):
    torch.manual_seed(0)
    return cls()


def plan(bits: float) -> Plan:
    return Plan({name: {"coded_bits": bits} for name in LAYERS})


def fitted(bits: float, epochs: int, *others) -> PlainModule:
    found = module()
    Trainer(max_epochs=epochs, callbacks=[RateQuantization(plan(bits)), *others], **QUIET).fit(found, *toy_data(0))
    return found.eval()


def codes_of(net) -> dict[str, torch.Tensor]:
    found = {}
    for name in LAYERS:
        layer = net.get_submodule(name)
        (grid,) = weight_transforms(layer)
        found[name] = (layer.weight / grid.scale).round().long()
    return found


@pytest.mark.parametrize("bits", [2, 6])
def test_a_layer_that_begins_with_zeros_is_trained_within_the_room(bits):
    found = module()
    torch.nn.init.zeros_(found.model.fc.weight)
    Trainer(max_epochs=4, callbacks=[RateQuantization(plan(bits))], **QUIET).fit(found, *toy_data(0))
    net = found.eval().model
    assert float(net.fc.weight.abs().max()) > 0.02
    size = sum(stream_bytes(codes, CODER) for codes in codes_of(net).values())
    assert size <= bits / 8 * sum(layer.weights for layer in structure_of(net).profile.weighted)


@pytest.mark.parametrize("bits", [2, 6, 7.5])
@pytest.mark.parametrize("features", [9, 400])
def test_weights_of_a_usual_start_take_their_share_of_the_step_of_zeros(bits, features):
    layer = torch.nn.Linear(features, 20000 // features)
    shape = tuple(layer.weight.shape)
    problem = RateProblem(np.zeros(shape), np.eye(features), np.ones(shape[0]), shape, has_norm=False)
    scale, codes = problem.unsolved(bits)
    assert not codes.any()
    codes = (layer.weight / scale).round().long()
    assert codes.abs().max() <= 127
    assert 8 * stream_bytes(codes, CODER) / codes.numel() == pytest.approx(bits, abs=0.5)


@pytest.mark.parametrize(("bits", "epochs"), [(0.7, 0), (1.5, 2), (5, 1)])
def test_codes_take_no_more_than_the_plan_says(bits, epochs, tmp_path):
    net = fitted(bits, epochs).model
    size = sum(stream_bytes(codes, CODER) for codes in codes_of(net).values())
    room = bits / 8 * sum(layer.weights for layer in structure_of(net).profile.weighted)
    assert 0.8 * room < size <= room
    file = lc.save(net, tmp_path / "one", coder=CODER)
    loaded = lc.load(file, ToyNet()).eval()
    x = next(iter(toy_data(0)[1]))[0]
    torch.testing.assert_close(loaded(x), net(x), rtol=1e-4, atol=1e-5)
    again = lc.load(lc.save(loaded, tmp_path / "two", coder=CODER), ToyNet()).eval()
    assert torch.equal(again(x), loaded(x))
    for name, codes in codes_of(net).items():
        layer = loaded.get_submodule(name)
        assert torch.equal((layer.weight / weight_transforms(layer)[0].scale).round().long().abs(), codes.abs())


@pytest.mark.parametrize(("budget", "epochs"), [(2400, 0), (0.2, 1)])
def test_a_run_ends_with_a_file_within_its_budget_and_says_so(budget, epochs, tmp_path):
    found = lc.compress(
        module(FullModule),
        FullData(),
        "rate",
        budget=budget,
        epochs=epochs,
        folder=tmp_path,
        make_trainer=make_trainer,
    )
    dense = (tmp_path / "dense.safetensors").stat().st_size
    limit = budget if budget > 1 else budget * dense
    assert 0.8 * limit < found.exports["packed"].bytes <= limit
    assert found.exports["packed"].bytes == (tmp_path / "model.safetensors").stat().st_size
    assert "coded bits for each of 2,504 weights, which layers share out by one price" in found.origins["rate"]
    assert found.limits["rate"].startswith("at most ")


def test_a_budget_below_what_is_no_code_is_told_with_the_smallest_one(tmp_path):
    with pytest.raises(
        InfeasibleBudgetError,
        match=r"stage rate: the budget of 700 bytes cannot be met: scales.*take "
        r"723 bytes; the smallest feasible one is 807 bytes. Raise the budget",
    ):
        lc.compress(module(FullModule), FullData(), "rate", budget=700, folder=tmp_path, make_trainer=make_trainer)


def test_too_few_bits_are_told():
    with pytest.raises(
        InfeasibleBudgetError,
        match=r"rate_quantization: the codes of 4 layers are to take 3 bytes together, and take 84",
    ):
        fitted(0.01, 0)


def test_a_planner_with_another_cost_or_limit_is_told():
    with pytest.raises(CompressError, match="CodedBits needs a budget of the packed file's bytes alone, and the cost"):
        CodedBits(cost=MACs(), budget=0.5).check("rate")
    with pytest.raises(CompressError, match="and the cost counts codes in fixed width"):
        CodedBits(cost=PackedBytes(), budget=0.5).check("rate")
    with pytest.raises(CompressError, match="and there are other limits"):
        CodedBits(cost=PackedBytes(), budget=0.5, limits={"macs": Limit(MACs(), 0.5)}).check("rate")


def test_biases_are_corrected_without_training():
    x = torch.cat([x for x, _ in toy_data(0)[0]])
    dense, corrected = module().eval(), fitted(1, 0)
    plain = module()
    RateQuantization(plan(1)).apply(plain.model, x[:2])
    off, left = (corrected(x) - dense(x)).mean(0), (plain.eval()(x) - dense(x)).mean(0)
    assert off.norm() < 0.5 * left.norm()


def test_another_callback_corrects_its_own_rounding_alone():
    inputs = QuantizationAwareTraining({"fc": {"act_bits": 8}})
    alone, both = fitted(1, 0), fitted(1, 0, inputs)
    torch.testing.assert_close(both.model.fc.bias, alone.model.fc.bias, atol=0.01, rtol=0)


def _levels(seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).laplace(0, 2, (16, 24)))


levels_of = st.integers(0, 2**31).map(_levels)


@settings(max_examples=20)
@given(levels_of, st.floats(0, 3))
def test_the_code_for_a_level_is_the_best_of_three(levels, slope):
    rates = CodeRates.of(levels.round().long(), CODER)
    tables, which = CODER.code_lengths(
        (levels.round().long() - rates.low).to(torch.uint8).numpy().ravel(),
        (rates.high - rates.low).bit_length(),
        levels.shape,
    )
    found = rates.nearest(levels.float(), slope)
    for level, code, table in zip(levels.flatten().tolist(), found.flatten().tolist(), tables[which], strict=True):
        first = round(np.float32(level))
        able = {first, first - (first > 0) + (first < 0), min(max(0, rates.low), rates.high)}
        cost = {q: (np.float32(level) - q) ** 2 + slope * table[q - rates.low] for q in able}
        assert code in able
        assert cost[code] <= min(cost.values()) + 1e-4


@settings(max_examples=20)
@given(levels_of, st.floats(0, 3), st.floats(0, 1))
def test_a_held_weight_changes_for_a_cheaper_code_or_a_good_reason(levels, slope, moved):
    before = levels.round().long()
    rates = CodeRates.of(before, CODER)
    after = (levels + moved * torch.randn(levels.shape, generator=torch.Generator().manual_seed(0))).float()
    found, nearest = rates.held(after, before, slope), after.round().clamp(rates.low, rates.high).long()
    bits = rates.bits.flatten()
    more = bits[rates.place + found] - bits[rates.place + before]
    saved = (after - before).square() - (after - found).square()
    dearer = (found != before) & (more > 1e-4)
    assert (saved[dearer] >= slope * more[dearer] - 1e-4).all()
    cheap = bits[rates.place + nearest] <= bits[rates.place + before]
    assert torch.equal(found[cheap], nearest[cheap])
    assert torch.equal(rates.held(after, before, 0.0), nearest)


@settings(max_examples=20)
@given(levels_of, st.floats(0.1, 3) | st.just(inf))
def test_a_held_weight_is_rounded_to_its_code_and_trained_as_before(levels, slope):
    before = levels.round().long()
    grid = RateGrid((), tuple(levels.shape))
    grid.scale.fill_(0.37)
    grid.coded.copy_(before)
    grid.hold(slope, CODER)
    weight = (0.37 * (levels.float() + 0.4)).requires_grad_()
    found = grid(weight)
    held = before if slope == inf else grid.rates.held(weight.detach() / grid.scale, before, slope)
    assert torch.equal((found / 0.37).round().long(), held)
    (grad,) = torch.autograd.grad(found.sum(), weight)
    assert (grad == 1).all()


@settings(max_examples=20)
@given(levels_of, st.floats(0.05, 1))
def test_codes_fit_into_the_room_and_use_it(levels, share):
    codes = levels.round().long()
    least, most = stream_bytes(torch.zeros_like(codes), CODER) + 8, stream_bytes(codes, CODER)
    room = max(share * most, least)
    found = codes_within({"a": levels.float()}, {"a": CodeRates.of(codes, CODER)}, room, CODER)["a"]
    assert stream_bytes(found, CODER) <= room
    assert (found.abs() <= codes.abs()).all()


@settings(max_examples=8)
@given(levels_of, st.floats(0.5, 6))  # below, what a stream of equal codes takes is all of it
def test_a_price_is_found_that_uses_the_room_up(levels, bits):
    problem = RateProblem(levels.numpy(), np.eye(24) / levels.square().sum().item(), np.ones(16), (16, 24), False)
    room = bits / 8 * levels.numel()
    size = stream_bytes(within({"a": problem}, room, CODER)["a"][1], CODER)
    assert size <= room
    assert size > 0.8 * room or room - size < 24  # a few hundred weights share a few words of 4 bytes


@pytest.mark.parametrize(("make", "words"), [
    (lambda: RateQuantization(batches=0), "batches must be 1 or more, got 0"),
    (lambda: RateQuantization(coder=FixedWidth()), "FixedWidth does not say what a code takes; give it a RangeCoded"),
    (lambda: fitted(9, 0), "coded_bits of layer 'conv1' must be above 0 and at most 8, got 9"),
    (lambda: RateQuantization({"bn1": {"coded_bits": 2}}).apply(ToyNet(), torch.zeros(2, 1, 8, 8)),
     "layer 'bn1' is no Conv or Linear; the plan may name"),
])  # fmt: skip
def test_what_cannot_be_is_told(make, words):
    with pytest.raises(CompressError, match=words):
        make()


def test_masked_layers_are_refused():
    masked = module()
    callbacks = [WeightPruning({"conv1": {"density": 0.5}}), RateQuantization({"conv1": {"coded_bits": 2}})]
    with pytest.raises(CompressError, match="the weight of layer 'conv1' already goes through"):
        Trainer(max_epochs=1, callbacks=callbacks, **QUIET).fit(masked, *toy_data(0))


def test_a_copy_of_the_grid_is_made_from_its_description():
    grid = RateGrid((4, 1), (4, 6))
    assert copy.deepcopy(grid).spec() == grid.spec()
    assert RateGrid.build(grid.spec()).coded.shape == (4, 6)
