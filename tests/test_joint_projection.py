"""The projections onto one size limit: never above it, nearest among what fits, and stable when done again."""

from __future__ import annotations

import re
from itertools import product
from math import comb, log2

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_compress.core.errors import InfeasibleBudgetError
from lightning_compress.quantization.admm_projections import (
    FIXED,
    affordable_bits,
    check_limit,
    nonzero,
    project_codes,
    project_weights,
    quantized,
    total,
)
from lightning_compress.quantization.kmeans import all_bits
from lightning_compress.quantization.size_model import FileAccount, WeightBitsAccount

ACCOUNTS = [WeightBitsAccount(), FileAccount()]
BITS = tuple(range(1, 9))


def layers(seed: int, sizes=(30, 400, 3000)) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {f"l{i}": torch.randn(n, generator=generator) * 10 ** (-i / 2) for i, n in enumerate(sizes)}


@given(
    seed=st.integers(0, 50),
    share=st.floats(1, 300),
    account=st.sampled_from(ACCOUNTS),
    b=st.integers(1, 8),
    before=st.integers(0, 30),
)
@settings(deadline=None, max_examples=100)
def test_every_limit_above_the_smallest_is_met_by_both_projections(seed, share, account, b, before):
    weights = layers(seed)
    sizes = {n: w.numel() for n, w in weights.items()}
    limit = share * total(dict.fromkeys(sizes, 1), sizes, dict.fromkeys(sizes, 1), account)
    bits, counts = dict.fromkeys(weights, b), dict.fromkeys(weights, before)
    for _ in range(3):
        bits = affordable_bits(weights, bits, limit, account, BITS)
        kept = project_weights(weights, bits, counts, limit, account)
        assert total(kept.counts, sizes, bits, account) <= limit
        assert all(int(kept.masks[n].sum()) == kept.counts[n] >= 1 for n in weights)
        counts = kept.counts
        targets = {n: w * kept.masks[n] for n, w in weights.items()}
        bits, books = project_codes(targets, counts, limit, account, dict.fromkeys(weights, BITS))
        assert total(counts, sizes, bits, account) <= limit
        assert all(len(books[n].centroids) <= 2 ** bits[n] for n in weights)


@given(seed=st.integers(0, 50), account=st.sampled_from(ACCOUNTS), b=st.integers(1, 8), before=st.floats(0, 1))
@settings(deadline=None, max_examples=60)
def test_a_limit_that_one_weight_a_layer_meets_is_met_and_none_below(seed, account, b, before):
    weights = layers(seed)
    sizes, bits = {n: w.numel() for n, w in weights.items()}, dict.fromkeys(weights, b)
    counts = {n: round(before * size) for n, size in sizes.items()}  # positions may be priced far too low
    smallest = total(dict.fromkeys(sizes, 1), sizes, bits, account)
    assert project_weights(weights, bits, counts, smallest, account).counts == dict.fromkeys(sizes, 1)
    with pytest.raises(InfeasibleBudgetError, match=f"limit of {smallest - 1:,} bits cannot be met.*{smallest:,} bits"):
        project_weights(weights, bits, counts, smallest - 1, account)


def test_bits_are_lowered_only_where_codebooks_leave_too_little_room():
    weights, account = layers(0), FileAccount()
    sizes, bits = {n: w.numel() for n, w in weights.items()}, dict.fromkeys(weights, 4)
    fixed = total(dict.fromkeys(sizes, 1), sizes, bits, account)
    assert affordable_bits(weights, bits, fixed / FIXED, account, BITS) == bits
    fewer = affordable_bits(weights, bits, fixed, account, BITS)
    assert total(dict.fromkeys(sizes, 1), sizes, fewer, account) <= FIXED * fixed
    assert all(fewer[n] <= 4 for n in weights)
    assert affordable_bits(weights, fewer, fixed, account, BITS) == fewer

    def distance(chosen):
        kept = project_weights(weights, chosen, dict.fromkeys(weights, 0), fixed + 100, account)
        found = {n: quantized(w * kept.masks[n], all_bits(nonzero(w * kept.masks[n]))[chosen[n]]) for n, w in named}
        return sum(float((w - found[n]).square().sum()) for n, w in named)

    named = list(weights.items())
    assert distance(fewer) < 0.7 * distance(bits)


@pytest.mark.parametrize("account", ACCOUNTS)
def test_weights_that_all_fit_and_layers_of_zeros_are_left_as_they_are(account):
    weights = {"a": torch.zeros(20), "b": torch.tensor([0.0, 2.0, 0.0, 1.0])}
    bits = {"a": 2, "b": 2}
    kept = project_weights(weights, bits, {"a": 0, "b": 0}, 1000, account)
    assert kept.counts == {"a": 0, "b": 2}
    assert kept.masks["b"].tolist() == [False, True, False, True]
    zeros = {"a": torch.zeros(20)}
    assert project_weights(zeros, {"a": 2}, {"a": 0}, 1000, account).counts == {"a": 0}
    assert affordable_bits(zeros, {"a": 8}, 500, account, BITS)["a"] == (
        8 if isinstance(account, WeightBitsAccount) else 1
    )


@given(seed=st.integers(0, 50), account=st.sampled_from(ACCOUNTS), b=st.integers(1, 6), counts=st.data())
@settings(deadline=None, max_examples=60)
def test_codes_fit_into_what_the_weights_take_to_the_bit(seed, account, b, counts):
    weights = layers(seed)
    kept = {n: counts.draw(st.integers(1, w.numel()), label=n) for n, w in weights.items()}
    targets = {n: w * (w.abs() >= w.abs().sort(descending=True).values[kept[n] - 1]) for n, w in weights.items()}
    bits = dict.fromkeys(weights, b)
    limit = total(kept, {n: w.numel() for n, w in weights.items()}, bits, account)
    assert project_codes(targets, kept, limit, account, dict.fromkeys(weights, (b,)))[0] == bits


@given(seed=st.integers(0, 50), share=st.floats(0.1, 0.9), b=st.integers(1, 4), before=st.floats(0.001, 1))
@settings(deadline=None, max_examples=60)
def test_the_limit_is_filled_when_positions_count(seed, share, b, before):
    weights = layers(seed)
    sizes, bits, account = {n: w.numel() for n, w in weights.items()}, dict.fromkeys(weights, b), FileAccount()
    limit = share * total(sizes, sizes, bits, account)
    counts = {n: max(int(before * size), 1) for n, size in sizes.items()}
    if limit > 2 * total(dict.fromkeys(sizes, 1), sizes, bits, account):
        kept = project_weights(weights, bits, counts, limit, account)
        assert limit - 0.05 * limit <= total(kept.counts, sizes, bits, account) <= limit


def test_with_the_papers_account_it_is_one_threshold_per_bit():
    weights = layers(0)
    bits = {"l0": 2, "l1": 4, "l2": 3}
    kept = project_weights(weights, bits, dict.fromkeys(weights, 0), 3000, WeightBitsAccount())
    scores = {n: (w.abs() / bits[n] ** 0.5) for n, w in weights.items()}
    lowest = min(float(scores[n][kept.masks[n]].min()) for n in weights)
    highest = max(float(scores[n][~kept.masks[n]].max()) for n in weights if not kept.masks[n].all())
    assert lowest >= highest * 0.98  # what is left over goes to the next that fit
    assert 3000 - 4 < total(kept.counts, {n: w.numel() for n, w in weights.items()}, bits, WeightBitsAccount()) <= 3000


@pytest.mark.parametrize("account", ACCOUNTS)
def test_bits_are_the_best_of_all_that_fit(account):
    weights = layers(1, (50, 200))
    counts = {n: w.numel() for n, w in weights.items()}
    limit = 250 * 4.0 + (600 if isinstance(account, FileAccount) else 0)
    bits, _ = project_codes(weights, counts, limit, account, dict.fromkeys(weights, BITS))
    books = {n: all_bits(nonzero(w)) for n, w in weights.items()}

    def distortion(choice):
        return sum(books[n][b].distortion for n, b in zip(weights, choice, strict=True))

    fitting = [
        c
        for c in product(BITS, BITS)
        if sum(account.layer(counts[n], counts[n], b) for n, b in zip(weights, c, strict=True)) <= limit
    ]
    assert distortion(bits.values()) == pytest.approx(min(map(distortion, fitting)))


def test_projecting_what_was_projected_changes_nothing():
    weights, bits, account = layers(2), {"l0": 2, "l1": 2, "l2": 2}, FileAccount()
    kept = project_weights(weights, bits, dict.fromkeys(weights, 100), 4000, account)
    again = {n: w * kept.masks[n] for n, w in weights.items()}
    assert project_weights(again, bits, kept.counts, 4000, account).counts == kept.counts


def test_quantized_values_are_the_nearest_and_zeros_stay():
    values = torch.tensor([0.0, 1.0, 1.1, -3.0, -2.9, 0.0])
    book = all_bits(nonzero(values), [1])[1]
    torch.testing.assert_close(quantized(values, book), torch.tensor([0, 1.05, 1.05, -2.95, -2.95, 0]))
    assert torch.equal(quantized(torch.zeros(3), all_bits(nonzero(torch.zeros(3)), [2])[2]), torch.zeros(3))


@pytest.mark.parametrize(("kept", "weights"), [(5, 100), (3, 20), (50, 60)])
def test_the_cost_of_positions_is_near_the_number_of_choices(kept, weights):
    exact = log2(comb(weights, kept))
    assert exact <= FileAccount().index_bits(kept, weights) <= exact + log2(weights) + 1


def test_a_limit_below_one_weight_a_layer_names_the_smallest_share():
    sizes = {"a": 30, "b": 400}
    smallest = total(dict.fromkeys(sizes, 1), sizes, dict.fromkeys(sizes, 2), FileAccount())
    with pytest.raises(InfeasibleBudgetError, match=f"limit of 0.01 .* takes {smallest} of 13,760 bits") as error:
        check_limit(sizes, 0.01, FileAccount(), 2)
    share = float(re.search(r"limit to (\S+) or more", str(error.value))[1])
    assert smallest <= share * 13_760 <= 1.001 * smallest
    check_limit(sizes, share, FileAccount(), 2)
