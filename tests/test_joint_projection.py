"""The projections onto one size limit: never above it, nearest among what fits, and stable when done again."""

from __future__ import annotations

from itertools import product
from math import comb, log2

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_compress.errors import InfeasibleBudgetError
from lightning_compress.joint_projection import nonzero, project_codes, project_weights, quantised, total
from lightning_compress.kmeans import all_bits
from lightning_compress.size_account import FileAccount, WeightBitsAccount

ACCOUNTS = [WeightBitsAccount(), FileAccount()]
BITS = tuple(range(1, 9))


def layers(seed: int, sizes=(30, 400, 3000)) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {f"l{i}": torch.randn(n, generator=generator) * 10 ** (-i / 2) for i, n in enumerate(sizes)}


@given(seed=st.integers(0, 50), share=st.floats(0.01, 1.2), account=st.sampled_from(ACCOUNTS), b=st.integers(1, 6))
@settings(deadline=None, max_examples=60)
def test_no_projection_exceeds_the_limit(seed, share, account, b):
    weights = layers(seed)
    sizes = {n: w.numel() for n, w in weights.items()}
    limit = share * 32 * sum(sizes.values())
    bits, counts = dict.fromkeys(weights, b), dict.fromkeys(weights, 5)
    try:
        for _ in range(3):
            kept = project_weights(weights, bits, counts, limit, account)
            assert total(kept.counts, sizes, bits, account) <= limit
            assert all(int(kept.masks[n].sum()) == kept.counts[n] >= 1 for n in weights)
            counts = kept.counts
            targets = {n: w * kept.masks[n] for n, w in weights.items()}
            bits, books = project_codes(targets, counts, limit, account, dict.fromkeys(weights, BITS))
            assert total(counts, sizes, bits, account) <= limit
            assert all(len(books[n].centroids) <= 2 ** bits[n] for n in weights)
    except InfeasibleBudgetError as error:
        assert "cannot be met" in str(error)  # noqa: PT017
        least = sum(account.layer(1, n, b) for n in sizes.values())
        assert limit < 2 * least


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
        c for c in product(BITS, BITS)
        if sum(account.layer(counts[n], counts[n], b) for n, b in zip(weights, c, strict=True)) <= limit
    ]  # fmt: skip
    assert distortion(bits.values()) == pytest.approx(min(map(distortion, fitting)))


def test_projecting_what_was_projected_changes_nothing():
    weights, bits, account = layers(2), {"l0": 2, "l1": 2, "l2": 2}, FileAccount()
    kept = project_weights(weights, bits, dict.fromkeys(weights, 100), 4000, account)
    again = {n: w * kept.masks[n] for n, w in weights.items()}
    assert project_weights(again, bits, kept.counts, 4000, account).counts == kept.counts


def test_quantised_values_are_the_nearest_and_zeros_stay():
    values = torch.tensor([0.0, 1.0, 1.1, -3.0, -2.9, 0.0])
    book = all_bits(nonzero(values), [1])[1]
    torch.testing.assert_close(quantised(values, book), torch.tensor([0, 1.05, 1.05, -2.95, -2.95, 0]))
    assert torch.equal(quantised(torch.zeros(3), all_bits(nonzero(torch.zeros(3)), [2])[2]), torch.zeros(3))


@pytest.mark.parametrize(("kept", "weights"), [(5, 100), (3, 20), (50, 60)])
def test_the_cost_of_positions_is_near_the_number_of_choices(kept, weights):
    exact = log2(comb(weights, kept))
    assert exact <= FileAccount().index_bits(kept, weights) <= exact + log2(weights) + 1


def test_a_limit_below_one_weight_a_layer_names_the_smallest():
    weights = layers(0)
    with pytest.raises(InfeasibleBudgetError, match="cannot be met"):
        project_weights(weights, dict.fromkeys(weights, 8), dict.fromkeys(weights, 1), 20, WeightBitsAccount())
