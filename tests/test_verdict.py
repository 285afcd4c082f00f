"""A run in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_compress.core.plan import Plan
from lightning_compress.pipeline.compress import Result
from lightning_compress.pipeline.figures import Figures, declare

DENSE = {
    "accuracy": 0.98, "bytes": 8400, "weight_bits": 64000, "macs": 500, "parameters": 2000, "activation_bytes": 900,
}  # fmt: skip


def test_macs_of_masked_weights_are_said_to_be_those_of_kept_ones():
    figures = tuple(declare("test_acc", [], masked=True))
    dense = {**DENSE, "unmasked_macs": 5000, "macs": 5000}
    small = Figures({**dense, "macs": 1000, "bytes": 4200})
    told = Result(Figures(dense), small, Plan({}), 1.0, Path(), figures=figures, samples=10_000).verdict
    assert told.startswith(
        "2.0x smaller and 5.0x fewer MACs per sample of kept weights (a dense runtime computes 5,000); "
    )
    assert [figure.name for figure in figures].index("unmasked_macs") == 4  # the row below the MACs


@pytest.mark.parametrize(("metric", "changed", "samples", "sentence"), [
    ("test_acc", {"bytes": 1000}, 359, "8.4x smaller; 0.0 points lost on 359 test samples (one is 0.28)."),
    ("test_acc", {"bytes": 1000, "macs": 250, "accuracy": 0.97}, 400,
     "8.4x smaller and 2.0x fewer MACs per sample; 1.0 points lost on 400 test samples (one is 0.25); a difference of "
     "up to 2.2 may be chance."),
    ("test_acc", {"accuracy": 0.9}, 400, "No smaller; 8.0 points lost on 400 test samples (one is 0.25)."),
    ("test_acc", {"bytes": 4200, "accuracy": 0.99}, 10_000,
     "2.0x smaller; 1.0 points gained on 10,000 test samples (one is 0.01)."),
    ("test_mse", {"bytes": 4200, "accuracy": 0.5}, 100, "2.0x smaller; test_mse 0.5, from 0.98."),
])  # fmt: skip
def test_sizes_first_then_what_it_did_to_the_metric(metric, changed, samples, sentence):
    figures = tuple(declare(metric, []))
    result = Result(
        Figures(DENSE), Figures({**DENSE, **changed}), Plan({}), 1.0, Path(), figures=figures, samples=samples
    )
    assert result.verdict == sentence
