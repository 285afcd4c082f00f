"""The bits projection against exhaustive search."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from lightning_compress.core.errors import CompressError, InfeasibleBudgetError
from lightning_compress.quantization.bit_allocation import project_bits

BITS = st.sets(st.integers(1, 8), min_size=1, max_size=8)
LAYER = BITS.flatmap(
    lambda bits: st.tuples(
        st.dictionaries(st.sampled_from(sorted(bits)), st.floats(0, 1e4), min_size=1), st.integers(0, 500)
    )
)


def named(layers, extra=0):
    distortions = {f"l{i}": d for i, (d, _) in enumerate(layers)}
    costs = {f"l{i}": {b: b * n + extra * 2**b for b in d} for i, (d, n) in enumerate(layers)}
    return distortions, costs


def exhaustive(distortions, costs, limit):
    best = None
    for picks in product(*distortions.values()):
        cost = sum(costs[n][b] for n, b in zip(distortions, picks, strict=True))
        if cost <= limit:
            total = sum(distortions[n][b] for n, b in zip(distortions, picks, strict=True))
            best = total if best is None else min(best, total)
    return best


@given(st.lists(LAYER, min_size=1, max_size=4), st.sampled_from([0, 1, 32]), st.floats(0, 1.1))
@settings(max_examples=200, deadline=None)
def test_exact_with_few_layers(layers, extra, share):
    distortions, costs = named(layers, extra)
    limit = int(share * sum(max(c.values()) for c in costs.values()))
    least = sum(min(c.values()) for c in costs.values())
    if least > limit:
        with pytest.raises(InfeasibleBudgetError, match=rf"take {least:,}\. Raise"):
            project_bits(distortions, costs, limit)
        return
    found = project_bits(distortions, costs, limit)
    assert sum(costs[n][b] for n, b in found.items()) <= limit
    total = sum(distortions[n][b] for n, b in found.items())
    assert total == pytest.approx(exhaustive(distortions, costs, limit), rel=1e-9, abs=1e-9)


def weights_like(rng, layers):
    """Distortions of Laplace-like weights: they fall three- to four-fold a bit."""
    sizes = rng.integers(100, 1_000_000, layers)
    start = sizes * rng.lognormal(0, 1, layers)
    rates = rng.uniform(2.8, 3.9, (layers, 8)).cumprod(1)
    distortions = {f"l{i}": {b: start[i] / rates[i, b - 1] for b in range(1, 9)} for i in range(layers)}
    return distortions, {f"l{i}": {b: int(b * sizes[i]) for b in range(1, 9)} for i in range(layers)}


@pytest.mark.parametrize("seed", range(8))
def test_five_layers_of_eight_widths_are_exact(seed):
    rng = np.random.default_rng(seed)
    distortions, costs = weights_like(rng, 5)
    limit = rng.uniform(0.3, 0.8) * sum(c[8] for c in costs.values())
    found = project_bits(distortions, costs, limit)
    total = sum(distortions[n][b] for n, b in found.items())
    grids = np.ix_(*[list(c.values()) for c in costs.values()])
    fits = sum(np.broadcast_arrays(*grids)) <= limit
    sums = sum(np.broadcast_arrays(*np.ix_(*[list(d.values()) for d in distortions.values()])))
    assert total == pytest.approx(sums[fits].min(), rel=1e-12)


def integer_program(distortions, costs, limit) -> float:
    """Return the least distortion by scipy's branch and cut: x[layer, bits] in {0, 1}, one for each layer."""
    d = np.array([v for n in distortions for v in distortions[n].values()])
    c = np.array([costs[n][b] for n in distortions for b in distortions[n]], dtype=float)
    one_each = np.repeat(np.eye(len(distortions)), [len(v) for v in distortions.values()], axis=1)
    constraints = [LinearConstraint(one_each, 1, 1), LinearConstraint(c[None] / limit, ub=1)]
    found = milp(d / d.min(), constraints=constraints, integrality=np.ones_like(d), bounds=Bounds(0, 1))
    return float(found.fun * d.min())


@pytest.mark.parametrize("layers", [10, 20, 54])
@pytest.mark.parametrize("share", [0.3, 0.5])
def test_many_layers_are_as_good_as_an_integer_program(layers, share):
    distortions, costs = weights_like(np.random.default_rng(layers), layers)
    limit = share * sum(c[8] for c in costs.values())
    found = project_bits(distortions, costs, limit)
    assert sum(costs[n][b] for n, b in found.items()) <= limit
    total = sum(distortions[n][b] for n, b in found.items())
    assert total <= integer_program(distortions, costs, limit) * (1 + 1e-4)


def test_a_layer_that_is_closed_does_not_close_the_others():
    distortions = {"big": {1: 100.0, 2: 10.0}, "small": {1: 5.0, 2: 1.0}}
    costs = {"big": {1: 100, 2: 200}, "small": {1: 10, 2: 20}}
    assert project_bits(distortions, costs, 199) == {"big": 1, "small": 2}
    assert project_bits(distortions, costs, 210) == {"big": 2, "small": 1}
    assert project_bits(distortions, costs, float("inf")) == {"big": 2, "small": 2}


def test_more_bits_that_do_not_help_are_not_bought():
    assert project_bits({"a": {2: 1.0, 4: 1.0, 8: 2.0}}, {"a": {2: 20, 4: 40, 8: 80}}, 100) == {"a": 2}
    assert project_bits({"a": {2: 0.0, 4: 0.0}}, {"a": {2: 0, 4: 0}}, 0) == {"a": 2}


def test_the_arguments_are_left_as_they_are():
    distortions, costs = weights_like(np.random.default_rng(0), 3)
    before = {n: dict(d) for n, d in distortions.items()}, {n: dict(c) for n, c in costs.items()}
    project_bits(distortions, costs, 0.5 * sum(c[8] for c in costs.values()))
    assert (distortions, costs) == before


def test_bad_numbers_are_named():
    with pytest.raises(CompressError, match="layer 'a' has no widths"):
        project_bits({"a": {}}, {"a": {}}, 1)
    with pytest.raises(CompressError, match="layer 'a' at 2 bits has distortion nan"):
        project_bits({"a": {2: float("nan")}}, {"a": {2: 1}}, 1)
