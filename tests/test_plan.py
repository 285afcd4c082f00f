"""Plans and spaces: plain, frozen, and picky."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_compress.core.errors import CompressError, NoEffectError
from lightning_compress.core.plan import Plan
from lightning_compress.core.space import Choice, Space

LAYERS = ["conv1", "layer1.conv1", "layer1.conv2", "fc"]
plans = st.dictionaries(st.sampled_from(LAYERS), st.dictionaries(st.sampled_from("abc"), st.integers(0, 9)))


@given(plans)
def test_files_and_pickles_give_the_plan_back(tmp_path_factory, layers):
    path = tmp_path_factory.mktemp("plan") / "plan.yaml"
    plan = Plan(layers)
    plan.save(path)
    assert Plan.load(path) == plan == pickle.loads(pickle.dumps(plan))
    assert Plan.load(path).digest == plan.digest


@given(plans, plans)
def test_merging_lets_the_second_win(a, b):
    merged = Plan(a).merge(Plan(b))
    for layer, knobs in {**a, **b}.items():
        for knob in {*a.get(layer, {}), *b.get(layer, {})}:
            assert merged.get(layer, knob) == b.get(layer, {}).get(knob, a.get(layer, {}).get(knob))
        assert set(merged.layers[layer]) >= set(knobs)


def test_numpy_numbers_become_plain():
    value = Plan({"fc": {"density": np.float32(0.5), "bits": np.int64(4)}}).layers["fc"]
    assert [type(v) for v in value.values()] == [int, float]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "4", True, None])
def test_what_is_no_number_is_named(value):
    with pytest.raises(CompressError, match="'weight_bits' of layer 'fc' must be a finite number"):
        Plan({"fc": {"weight_bits": value}})


def test_frozen():
    plan = Plan({"fc": {"a": 1}})
    with pytest.raises(TypeError):
        plan.layers["fc"]["a"] = 2


def test_patterns_must_match():
    plan = Plan.resolve({"*": {"a": 1}, "layer1.*": {"a": 2}}, LAYERS)
    assert plan.knob("a") == {"conv1": 1, "fc": 1, "layer1.conv1": 2, "layer1.conv2": 2}
    with pytest.raises(NoEffectError, match=r"'layer2\.\*' matches no layer"):
        Plan.resolve({"layer2.*": {"a": 1}}, LAYERS)


def test_a_file_without_layers_is_refused(tmp_path):
    (tmp_path / "p.yaml").write_text("a: 1")
    with pytest.raises(CompressError, match="must hold 'layers:'"):
        Plan.load(tmp_path / "p.yaml")


@given(st.integers(1, 40), st.floats(0, 1))
def test_the_middle_of_a_bin_falls_into_it(count, unit):
    choice = Choice("a", "x", tuple(range(count)))
    assert 0 <= choice.index(unit) < count
    assert all(choice.index(choice.unit(i)) == i for i in range(count))


@given(st.data())
def test_points_and_plans_are_one_to_one(data):
    space = Space((Choice("a", "x", (1, 2, 4)), Choice("a", "y", (0.5, 1)), Choice("b", "x", (3,))))
    point = tuple(data.draw(st.integers(0, len(c.values) - 1)) for c in space.choices)
    assert space.indices(space.plan(point)) == point


def test_values_off_the_grid_are_named():
    with pytest.raises(CompressError, match="'x' of 'a' is 3"):
        Space((Choice("a", "x", (1, 2)),)).indices(Plan({"a": {"x": 3}}))
    with pytest.raises(CompressError, match="must be distinct and ascending"):
        Choice("a", "x", (2, 1))


@pytest.mark.parametrize(
    ("layer", "hint"),
    [
        ("model.conv1", "names begin inside the network, which is 'model' here: 'conv1'"),
        ("conv*", "make plans of patterns with Plan.resolve"),
        ("convl", "did you mean 'conv1'?"),
    ],
)
def test_a_name_that_is_not_there_gets_a_hint(layer, hint):
    with pytest.raises(CompressError, match=re.escape(hint)):
        Plan({layer: {"density": 0.5}}).check(["conv1", "fc"], ["density"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"layers: [", r"line 1: .*expected YAML"),
        (b"layers:\n  a: {weight_bits: 4}\n b: 3", r"line 3: .*expected YAML"),
        (b"\x80\x03PK\x00\xff" * 20, "is no text; expected a YAML file"),
        (b"layers: \x00", "is no text; expected a YAML file"),
        (b"", "must hold 'layers:'"),
        (b"layers:\n  1: {weight_bits: 4}\n  a: {weight_bits: 4}", r"got 1 of type int; put it in quotes: '1'"),
        (b"layers: {a: {2: 4}}", r"got 2 of type int; put it in quotes"),
        (b"layers: {a: {weight_bits: 4}, a: {weight_bits: 8}}", r"line 1: the key 'a' is there twice"),
        (b"layers: {a: {weight_bits: 4, weight_bits: 8}}", r"the key 'weight_bits' is there twice"),
        (b"layers: {? [a] : {weight_bits: 4}}", r"cannot be a key"),
        (b"layers: {a: {weight_bits: 2001-13-01}}", r"is no YAML \(month must be in"),
        (b"layers: {a: {weight_bits: .nan}}", "must be a finite number"),
        (b"layers: {a: !!python/object:os.system {}}", "could not determine a constructor"),
        (b"[" * 100_000, "plan: .* is no YAML"),
    ],
)
def test_a_bad_plan_file_is_told_in_a_sentence(content, message, tmp_path):
    (tmp_path / "p.yaml").write_bytes(content)
    with pytest.raises(CompressError, match=message):
        Plan.load(tmp_path / "p.yaml")


def test_a_folder_in_the_place_of_a_plan_file_is_told(tmp_path):
    with pytest.raises(CompressError, match="cannot be read: Is a directory"):
        Plan.load(tmp_path)
