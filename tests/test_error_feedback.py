"""Columns that are rounded in turn: each sees what least squares on all that follow would make of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_compress.quantization.error_feedback import BLOCK, DAMPING, feedback, round_in_turn


def problem(seed: int, rows: int, features: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a weight and the moments of inputs that depend on each other."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(5 * features, features)) @ (
        np.eye(features) + 0.4 * rng.normal(size=(features, features))
    )
    return rng.normal(size=(rows, features)), inputs.T @ inputs / len(inputs)


@given(st.integers(0, 2**16), st.sampled_from([1, 3, 17, BLOCK, BLOCK + 1, 2 * BLOCK + 5]))
def test_each_column_is_the_least_squares_of_those_that_are_left(seed, features):
    weight, second = problem(seed, 3, features)
    damped = second + DAMPING * np.mean(np.diag(second)) * np.eye(features)
    done = np.zeros_like(weight)

    def choose(j, column):
        off = weight[:, :j] - done[:, :j]  # errors of the columns before; all others are free
        expected = weight[:, j:] + off @ damped[:j, j:] @ np.linalg.inv(damped[j:, j:])
        np.testing.assert_allclose(column, expected[:, 0], rtol=1e-6, atol=1e-8)
        done[:, j] = np.rint(column * 2) / 2
        return done[:, j]

    found = round_in_turn(weight, feedback(second), choose)
    np.testing.assert_array_equal(found, done)


@pytest.mark.parametrize("step", [0.25, 1.0])
def test_the_error_is_below_that_of_the_nearest_values(step):
    weight, second = problem(0, 40, 96)
    found = round_in_turn(weight, feedback(second), lambda _j, column: np.rint(column / step) * step)

    def error(rounded):
        return np.einsum("of,fg,og->", weight - rounded, second, weight - rounded)

    assert error(found) < 0.6 * error(np.rint(weight / step) * step)


def test_inputs_that_are_always_zero_change_nothing():
    weight, _ = problem(0, 3, 5)
    found = round_in_turn(weight, feedback(np.zeros((5, 5))), lambda _j, column: np.rint(column))
    np.testing.assert_array_equal(found, np.rint(weight))
