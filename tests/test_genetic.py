"""GeneCAI's operators against their formulas, and its boundaries against a scan of all levels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_compress.core.space import Choice, Space
from lightning_compress.search.genetic.bisection import Bisections
from lightning_compress.search.genetic.operators import Gene, crossover, directed, gene, moved, mutate, roulette

seeds = st.integers(0, 2**32 - 1)
MIXED = Space((
    Choice("a", "channels", (0.25, 0.5, 0.75, 1.0)), Choice("a", "weight_bits", (2, 3, 4, 8)),
    Choice("b", "rank", (1, 4, 9)), Choice("b", "density", (0.1, 0.4, 1.0)),
))  # fmt: skip


@st.composite
def genomes(draw):
    genes, genome = [], []
    for _ in range(draw(st.integers(0, 12))):
        high = draw(st.integers(0, 9))
        low = draw(st.integers(0, high))
        genes.append(Gene(low, high, draw(st.sampled_from([None, 0.2 * high]))))
        genome.append(draw(st.integers(low, high)))
    return tuple(genes), tuple(genome)


@given(st.tuples(*(st.integers(0, len(c.values) - 1) for c in MIXED.choices)))
def test_genome_and_plan_are_the_same_thing(genome):
    assert MIXED.indices(MIXED.plan(genome)) == genome


def test_ratios_move_by_a_width_and_whole_numbers_by_a_step():
    ratio, bits, rank, density = (gene(choice, 0, 0.2) for choice in MIXED.choices)
    assert ratio.width == pytest.approx(0.2 * 3)
    assert density.width == pytest.approx(0.2 * 2)
    assert (bits.width, rank.width) == (None, None)


@settings(deadline=None)
@given(genomes(), seeds)
def test_operators_stay_within_the_boundaries_and_change_nothing_in_place(case, seed):
    genes, genome = case
    rng = np.random.default_rng(seed)
    other = tuple(g.high for g in genes)
    child = mutate(crossover(genome, other, 1.0, 0.5, rng), genes, 1.0, 1.0, rng)
    assert len(child) == len(genome)
    assert all(g.low <= index <= g.high for index, g in zip(child, genes, strict=True))
    assert all(
        abs(a - b) <= 1
        for a, b, g in zip(mutate(genome, genes, 1.0, 1.0, rng), genome, genes, strict=True)
        if g.width is None
    )
    assert mutate(genome, genes, 0.0, 1.0, rng) == mutate(genome, genes, 1.0, 0.0, rng) == genome
    assert crossover(genome, other, 0.0, 1.0, rng) == genome
    assert crossover(genome, other, 1.0, 1.0, rng) == other


def test_rates_of_crossover_and_mutation():
    rng = np.random.default_rng(0)
    zeros, ones = (0,) * 1000, (1,) * 1000
    swapped = [sum(crossover(zeros, ones, 0.2, 0.2, rng)) for _ in range(2000)]
    assert np.mean([s > 0 for s in swapped]) == pytest.approx(0.2, abs=0.03)
    assert np.mean([s for s in swapped if s]) == pytest.approx(200, abs=3)
    genes = (Gene(0, 10, None),) * 1000
    changed = [sum(i != 5 for i in mutate((5,) * 1000, genes, 0.8, 0.05, rng)) for _ in range(500)]
    assert np.mean([c > 0 for c in changed]) == pytest.approx(0.8, abs=0.06)
    assert np.mean([c for c in changed if c]) == pytest.approx(50, abs=2)


def test_a_ratio_moves_by_a_normal_step():
    rng = np.random.default_rng(0)
    steps = np.array([moved(500, Gene(0, 1000, 200.0), rng) - 500 for _ in range(4000)])
    inside = steps[np.abs(steps) < 500]
    assert inside.mean() == pytest.approx(0, abs=12)
    assert inside.std() == pytest.approx(200, rel=0.06)  # a few in a hundred end at the limits


def test_the_first_individuals_lie_halfway_to_the_boundary():
    rng = np.random.default_rng(0)
    genes = (Gene(200, 1000, None),) * 4000
    drawn = np.array(directed((600,) * 4000, genes, rng))
    assert drawn.min() >= 200
    assert drawn.max() <= 600
    assert drawn.mean() == pytest.approx(400, abs=8)  # m / 2 below the start, m = 400
    assert np.percentile(drawn, 84) - np.median(drawn) == pytest.approx(100, abs=8)  # m / 4


def test_a_start_below_its_boundary_stays():
    assert directed((1,), (Gene(3, 5, None),), np.random.default_rng(0)) == (1,)


def test_roulette_follows_the_ranks():
    drawn = roulette(4, 40_000, np.random.default_rng(0))
    np.testing.assert_allclose(np.bincount(drawn) / 40_000, [0.4, 0.3, 0.2, 0.1], atol=0.01)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 13)), max_size=6))
def test_bisections_end_at_the_cheapest_harmless_level(choices):
    """Each choice is harmless from its own level up; level 13 is above all starts."""
    start, harmless = tuple(s for s, _ in choices), [min(h, s) for s, h in choices]
    boundary = Bisections(start, range(len(start)), probes=4, most=1000, tolerance=0.5, reference=1.0)
    asked = 0
    while (probe := boundary.ask()) is not None:
        i, point = probe
        assert [a != b for a, b in zip(point, start, strict=True)] == [j == i for j in range(len(start))]
        boundary.tell(i, 0.5 if point[i] >= harmless[i] else 0.49)
        asked += 1
    assert boundary.lowest == tuple(harmless)
    assert asked <= 4 * len(start)


def test_probes_wait_for_the_start_and_end_at_their_number():
    boundary = Bisections((8, 8, 8), (2, 0, 1), probes=2, most=5, tolerance=0.1)
    assert boundary.ask() is None
    boundary.reference = 1.0
    probes = [boundary.ask() for _ in range(4)]
    assert [p and p[0] for p in probes] == [2, 0, 1, None]  # in the order given; all three are open
    for i in range(3):
        boundary.tell(i, None)  # failed: lost too much
    assert boundary.lowest == (4, 4, 4)
    assert [boundary.ask()[0], boundary.ask()[0], boundary.ask()] == [2, 0, None]
