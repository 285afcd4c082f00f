"""The sparsity projection: never above the limit, near the exact knapsack, the same twice."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_compress.core.errors import CompressError, InfeasibleBudgetError
from lightning_compress.quantization.sparsity_projection import project_sparsity

VALUES = st.one_of(st.just(0.0), st.sampled_from([0.5, -0.5, 1.0]), st.floats(-4, 4, width=32))
LAYER = st.tuples(st.lists(VALUES, max_size=6), st.integers(1, 8), st.sampled_from([0.0, 0.375, 3.0]))


def named(layers):
    weights = {f"l{i}": torch.tensor(values) for i, (values, _, _) in enumerate(layers)}
    bits = {f"l{i}": b for i, (_, b, _) in enumerate(layers)}
    index = {f"l{i}": c for i, (_, _, c) in enumerate(layers)}
    return weights, bits, index


def value(weights, masks) -> float:
    return sum(float(w.double()[masks[name]].square().sum()) for name, w in weights.items())


def best(weights, sizes, limit) -> float:
    """Return the best sum of squares of all subsets that fit."""
    items = [(float(v) ** 2, sizes[name]) for name, w in weights.items() for v in w.double() if v]
    sums = {(0.0, 0.0)}
    for gain, size in items:
        sums |= {(g + gain, s + size) for g, s in sums if s + size <= limit}
    return max(g for g, _ in sums)


@given(st.lists(LAYER, min_size=1, max_size=4), st.floats(0, 80), st.integers(0, 2))
@settings(max_examples=300, deadline=None)
def test_within_the_limit_and_the_same_twice(layers, limit, least):
    weights, bits, index = named(layers)
    try:
        kept = project_sparsity(weights, bits, limit, index, least)
    except InfeasibleBudgetError:
        assert sum(min(least, int(w.count_nonzero())) * (bits[n] + index[n]) for n, w in weights.items()) > limit - 0.01
        return
    used = 0.0
    for name, weight in weights.items():
        mask = kept.masks[name]
        assert mask.shape == weight.shape
        assert int(mask.sum()) == kept.counts[name] >= min(least, int(weight.count_nonzero()))
        assert (weight[mask] != 0).all()
        rest = weight[~mask].abs()
        assert not mask.any() or not len(rest) or weight[mask].abs().min() >= rest.max()
        used += kept.counts[name] * (bits[name] + index[name])
    assert used <= kept.bits <= limit
    again = project_sparsity({n: w * kept.masks[n] for n, w in weights.items()}, bits, limit, index, least)
    assert all(torch.equal(again.masks[n], kept.masks[n]) for n in weights)


@given(st.lists(LAYER, min_size=1, max_size=3).filter(lambda ls: sum(len(v) for v, _, _ in ls) <= 10), st.floats(0, 60))
@settings(max_examples=150, deadline=None)
def test_within_one_weight_of_the_exact_knapsack(layers, limit):
    weights, bits, index = named(layers)
    sizes = {name: bits[name] + index[name] for name in weights}
    found = value(weights, project_sparsity(weights, bits, limit, index).masks)
    optimum = best(weights, sizes, limit)
    one = max((float(w.double().square().max()) for w in weights.values() if w.numel()), default=0.0)
    assert found <= optimum + 1e-9
    assert found >= optimum - one - 1e-3 * optimum


@given(st.lists(LAYER, min_size=1, max_size=4), st.floats(0, 80))
@settings(max_examples=100, deadline=None)
def test_no_further_weight_would_fit(layers, limit):
    weights, bits, index = named(layers)
    kept = project_sparsity(weights, bits, limit, index)
    for name, weight in weights.items():
        if kept.counts[name] < int(weight.count_nonzero()):
            assert kept.bits + bits[name] + index[name] > limit - 1e-4


def test_many_weights_against_a_sort_of_all():
    generator = torch.Generator().manual_seed(0)
    weights = {f"l{i}": (i + 1) * torch.randn(20_000, generator=generator) for i in range(5)}
    bits = {name: i + 2 for i, name in enumerate(weights)}
    score = torch.cat([w.double().square() / bits[n] for n, w in weights.items()])
    size = torch.cat([torch.full((20_000,), bits[n]) for n in weights])
    order = score.argsort(descending=True)
    for share in (0.001, 0.1, 0.5, 0.99):
        limit = int(share * int(size.sum()))
        prefix = order[size[order].cumsum(0) <= limit]
        kept = project_sparsity(weights, bits, limit)
        mask = torch.cat([kept.masks[n] for n in weights])
        assert mask[prefix].all()
        assert int(mask.sum()) - len(prefix) <= 3
        assert limit - min(bits.values()) < kept.bits <= limit


def test_equal_weights_are_taken_from_the_front():
    weights = {"a": torch.ones(3, 4), "b": torch.ones(10_000)}
    kept = project_sparsity(weights, {"a": 2, "b": 2}, 15)
    assert kept.counts == {"a": 7, "b": 0}
    assert kept.masks["a"].flatten().tolist() == [True] * 7 + [False] * 5
    kept = project_sparsity(weights, {"a": 2, "b": 2}, 2 * 12 + 2 * 5000)
    assert kept.counts == {"a": 12, "b": 5000}
    assert kept.masks["b"][:5000].all()


def test_cheap_layers_win_and_fill_what_is_left_over():
    weights = {"dear": torch.tensor([2.0, 1.9]), "cheap": torch.tensor([1.0, 0.1, 0.05])}
    kept = project_sparsity(weights, {"dear": 8, "cheap": 1}, 11)
    assert kept.counts == {"dear": 1, "cheap": 3}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_and_memory_formats(dtype):
    weight = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = project_sparsity({"a": weight}, {"a": 3}, 300).masks["a"]
    assert int(expected.sum()) == 100
    strided = weight.to(memory_format=torch.channels_last)
    assert torch.equal(project_sparsity({"a": strided}, {"a": 3}, 300).masks["a"], expected)


def test_zero_empty_and_single_layers():
    weights = {
        "zero": torch.zeros(5),
        "none": torch.zeros(0),
        "one": torch.tensor([[-2.0]]),
        "tiny": torch.full((2,), 1e-40),
    }
    bits = dict.fromkeys(weights, 4)
    assert project_sparsity(weights, bits, 100).counts == {"zero": 0, "none": 0, "one": 1, "tiny": 2}
    assert project_sparsity(weights, bits, 11, least=1).counts == {"zero": 0, "none": 0, "one": 1, "tiny": 1}
    assert project_sparsity(weights, bits, 0).counts == dict.fromkeys(weights, 0)


def test_a_limit_below_the_floor_names_the_smallest_one():
    weights = {"a": torch.ones(5), "b": torch.ones(5)}
    with pytest.raises(InfeasibleBudgetError, match="limit of 27 bits cannot be met; 2 weights in each layer take 28"):
        project_sparsity(weights, {"a": 4, "b": 8}, 27, index_bits={"a": 2, "b": 0}, least=2)
    assert project_sparsity(weights, {"a": 4, "b": 8}, 28, index_bits={"a": 2, "b": 0}, least=2).bits == 28


def test_bad_bits_and_weights_are_named():
    with pytest.raises(CompressError, match="bits of layer 'a' must be above 0, got 0"):
        project_sparsity({"a": torch.ones(3)}, {"a": 0}, 1)
    with pytest.raises(CompressError, match="layer 'a' holds NaN"):
        project_sparsity({"a": torch.tensor([1.0, float("nan")])}, {"a": 1}, 1)
