"""Charts of the report: axes, lines, dots and their colors."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from math import nan
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_compress.app.report import charts
from lightning_compress.app.report.contents import Point, Search

STYLE = (Path(charts.__file__).parent / "templates/style.css").read_text()
SEARCH = Search("quantize", "bytes", 36.0, (Point(0, 30.0, 0.7), Point(1, nan, nan, "why")))


@given(
    st.lists(
        st.tuples(st.floats(0, 9), st.floats(0, 1)).map(lambda t: (round(t[0]), round(t[1], 1))),
        min_size=1,
        max_size=20,
    )
)
def test_the_front_is_what_no_trial_dominates(values):
    points = tuple(Point(i, cost, reward) for i, (cost, reward) in enumerate(values))
    front = {(p.cost, p.reward) for p in Search("s", "c", 1.0, points).front}
    expected = {(c, r) for c, r in values if not any(c2 <= c and r2 >= r and (c2, r2) != (c, r) for c2, r2 in values)}
    assert front == expected


@given(st.floats(-1e9, 1e9), st.floats(1e-3, 1e9))
def test_ticks_are_few_inside_the_axis_and_told_apart_by_their_labels(low, width):
    found = charts.axis([low, low + width], 0, 100)
    values, labels = zip(*found.ticks, strict=True)
    assert 3 <= len(values) <= 10
    assert all(-0.1 <= found(value) <= 100.1 for value in values)
    assert len(set(labels)) == len(labels)
    assert 2 <= len(found.labeled(6)) <= 6


@given(st.integers(1, 100_000))
def test_trials_are_counted_in_whole_numbers(last):
    found = charts.axis([0, last], 0, 100, least=1)
    assert all(value == round(value) for value, _ in found.ticks)
    assert found.ticks[0] == (0, "0")
    assert 2 <= len(found.labeled(6)) <= 6


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([38_000, 39_000], ["38.0k", "38.2k", "38.4k", "38.6k", "38.8k", "39.0k"]),
        ([0.97, 0.99], ["0.970", "0.975", "0.980", "0.985", "0.990"]),
        ([0, 100], ["0", "20", "40", "60", "80", "100"]),
        ([0, 3_000_000], ["0", "0.5M", "1.0M", "1.5M", "2.0M", "2.5M", "3.0M"]),
    ],
)
def test_tick_labels(values, labels):
    assert [label for _, label in charts.axis(values, 0, 100).ticks] == labels


def test_baselines_have_a_line_and_a_number_each():
    points = tuple(Point(i, 10.0 + i, 0.5 + 0.1 * i) for i in range(3))
    others = {"random": (Point(0, 9.0, 0.4), Point(1, 9.0, 0.6)), "uniform": (Point(0, nan, nan, "failed"),)}
    found = Search("quantize", "bytes", 20.0, points, others)
    drawn = charts.curve(found)
    assert drawn.count('class="baseline look') == 1
    assert "<title>random: 0.6000</title>" in drawn
    assert drawn.count('class="best"') == 1


def rules(name: str) -> dict[str, str]:
    """Selector -> value of a property, over the whole style sheet."""
    found = {}
    for selectors, body in re.findall(r"([^{}]+)\{([^{}]*)\}", STYLE):
        for value in re.findall(rf"(?:^|[;\s]){name}:\s*([^;]+)", body):
            found |= dict.fromkeys((selector.strip() for selector in selectors.split(",")), value.strip())
    return found


def test_no_two_looks_share_colour_and_dash():
    colors, dashes = rules("stroke"), rules("stroke-dasharray")
    looks = {(colors[f".{charts.look(i)}"], dashes[f".{charts.look(i)}"]) for i in range(charts.LOOKS)}
    assert len(looks) == charts.LOOKS


def luminance(color: str) -> float:
    """Relative luminance by WCAG 2, of ``#rgb`` or ``#rrggbb``."""
    digits = color.removeprefix("#")
    digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
    shares = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_and_marks_have_contrast(scheme):
    """Text 4.5 : 1, and marks of charts 3 : 1, as WCAG 2.2 asks (1.4.3, 1.4.11)."""
    block = re.findall(r":root \{([^}]*)\}", STYLE)[scheme]
    colors = {name: luminance(value) for name, value in re.findall(r"--(\w+): (#\w+)", block)}
    marks = {"accent", "dot", "front", "bad", "hue0", "hue1", "hue2", "hue3"}
    assert marks | {"text", "soft", "page", "panel", "rule"} == colors.keys()
    for name, least in [("text", 4.5), ("soft", 4.5), *((mark, 3.0) for mark in sorted(marks))]:
        for ground in ("page", "panel"):
            low, high = sorted((colors[name], colors[ground]))
            assert (high + 0.05) / (low + 0.05) >= least, (name, ground)


def test_lines_and_fronts_of_every_length_stay_small():
    points = tuple(Point(i, float(i), float(i)) for i in range(30_000))  # each the best so far, and all on the front
    search = replace(SEARCH, points=points)
    assert len(charts.curve(search)) + len(charts.scatter(search)) < 1_500_000


@given(st.integers(1, 300), st.integers(2, 50))
def test_dots_are_chosen_evenly_with_both_ends(count, most):
    points = [Point(i, 1.0, 1.0) for i in range(count)]
    numbers = [point.number for point in charts._evenly(points, most)]
    assert len(numbers) == len(set(numbers)) == min(count, most)
    assert (numbers[0], numbers[-1]) == (0, count - 1)
    gaps = {after - before for before, after in pairwise(numbers)}
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_far_worse_trials_stand_at_the_edge_so_that_the_others_can_be_told_apart():
    points = (*(Point(i, 1.0 + i, 0.9 + 0.001 * i) for i in range(20)), Point(20, 5.0, 0.1))
    search = replace(SEARCH, points=points)
    for drawn in (charts.curve(search), charts.scatter(search)):
        assert drawn.count('class="below"') == 1
        assert "0.10" not in re.findall(r'text-anchor="end">([^<]*)', drawn)
    assert charts.hidden(search)
    assert not charts.hidden(replace(SEARCH, points=points[:-1]))


def test_plans_just_below_the_limit_are_shown_by_what_they_leave_of_it():
    costs = [100 - 0.001 * 1.3**i for i in range(30)]
    search = Search("s", "bytes", 100.0, tuple(Point(i, cost, 0.1) for i, cost in enumerate(costs)))
    drawn = charts.scatter(search)
    places = sorted(float(x) for x in re.findall(r'class="trial" cx="([^"]*)"', drawn))
    assert max(after - before for before, after in pairwise(places)) < 0.1 * (places[-1] - places[0])
    assert "-1 %</text>" in drawn
    assert "limit</text>" in drawn
    assert "below the limit of 100" in drawn


@given(st.lists(st.floats(0, 100), min_size=1, max_size=30), st.sampled_from([50.0, 100.0]))
def test_every_dot_lies_between_the_ends_of_the_axis(costs, limit):
    search = Search("s", "bytes", limit, tuple(Point(i, cost, 0.1 * i) for i, cost in enumerate(costs)))
    places = [float(x) for x in re.findall(r'class="trial" cx="([^"]*)"', charts.scatter(search))]
    assert all(0 <= place <= charts.WIDTH for place in places)
