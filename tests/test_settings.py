"""Settings as plain types: the same in any process, different where objects do something else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

import lightning_compress.conf
from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.callbacks.channel_pruning import ChannelPruning
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.core.digest import digest_of
from lightning_compress.core.plan import Plan
from lightning_compress.core.settings import settings_of
from lightning_compress.pruning.criteria.gram import Gram
from lightning_compress.pruning.criteria.random import Random
from lightning_compress.quantization.quantizers.min_max import MinMax
from lightning_compress.testing.toys import ToyNet

EXAMPLE = torch.zeros(2, 1, 8, 8)
SETTINGS = """
import json, sys
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from lightning_compress.core.settings import settings_of
found = {}
with initialize_config_module("lightning_compress.conf", version_base="1.3"):
    for way in sys.argv[1:]:
        stages = compose(overrides=[f"+compress={way}"]).compress.stages
        found[way] = settings_of(instantiate(stages, _convert_="object"))
print(json.dumps(found))
"""


WAYS = sorted(file.stem for file in (Path(lightning_compress.conf.__file__).parent / "compress").glob("*.yaml"))


def settings_in_a_process(seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    done = subprocess.run(
        [sys.executable, "-c", SETTINGS, *WAYS], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_stages_have_the_same_settings_in_each_process():
    one, other = (settings_in_a_process(seed) for seed in ("1", "2"))
    assert one == other
    assert " at 0x" not in one
    assert "lightning_compress" not in one  # of our classes their kinds, which stay when code moves
    found = json.loads(one)
    pruning = found["drl_prune"]["prune"]["callbacks"]["channels"]
    assert pruning["criterion"] == {"kind": "gram", "positions": 10}
    assert found["quant"]["quantize"]["distillation"]["loss"]["kind"] == "hinton"


@dataclass
class Node:
    """May be inside itself."""

    name: str
    other: object = None


def test_what_they_are_made_of():
    node = Node("a", {"x": 1, "y": (2.5, None)})
    assert settings_of(node) == {"class": f"{__name__}.Node", "name": "a", "other": {"x": 1, "y": [2.5, None]}}
    assert settings_of(partial(Node, "a", other=Path("b"))) == {
        "class": f"{__name__}.Node",
        "arguments": ["a"],
        "other": "b",
    }
    assert settings_of(Node) == f"{__name__}.Node"
    assert settings_of({"dtype": torch.float16, "nan": float("nan"), "of": {3, 1}}) == {
        "dtype": "torch.float16",
        "nan": "nan",
        "of": [1, 3],
    }
    assert settings_of(Lock()) == settings_of(Lock())
    node.other = [node]
    assert settings_of(node)["other"] == [f"{__name__}.Node"]


def test_of_a_partial_of_hydra_in_another():
    make = instantiate({"_target_": "lightning_compress.search.searchers.random.Random", "_partial_": True, "seed": 1})
    expected = {"kind": "random", "seed": 1}
    assert settings_of(make) == settings_of(partial(make)) == expected
    assert settings_of(partial(make, seed=2)) == {**expected, "seed": 2}


def test_modules_and_tensors_are_told_apart_by_their_numbers():
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    assert settings_of(Node("a", one)) != settings_of(Node("a", other))
    other.load_state_dict(one.state_dict())
    assert settings_of(Node("a", one)) == settings_of(Node("a", other))


@pytest.mark.parametrize(
    "other",
    [
        [ChannelPruning(criterion=Random()), QuantizationAwareTraining()],
        [ChannelPruning(criterion=Gram(positions=7)), QuantizationAwareTraining()],
        [ChannelPruning(criterion=Gram()), QuantizationAwareTraining(weight_quantizer=MinMax)],
        [ChannelPruning(criterion=Gram()), QuantizationAwareTraining(per_channel=False)],
    ],
)
def test_of_callbacks_everything_counts_but_the_plan_and_what_is_cached(other):
    def found(callbacks):
        return Composition(callbacks, ToyNet(), EXAMPLE).settings()

    callbacks = [ChannelPruning(criterion=Gram()), QuantizationAwareTraining()]
    before = found(callbacks)
    Composition(callbacks, ToyNet(), EXAMPLE).space()
    assert found([callback.with_plan(Plan({})) for callback in callbacks]) == before
    assert found(other) != before


@pytest.mark.parametrize(
    "other",
    [
        [torch.arange(4.0), {"y": [1, "a"]}, 2],
        [torch.arange(4.0), {"y": [1, "b"]}, None],
        [torch.arange(4.0).view(2, 2), {"y": [1, "a"]}, None],
        [torch.arange(4), {"y": [1, "a"]}, None],
        [torch.arange(4.0), {"y": [1], "a": 0}, None],
        [torch.arange(4.0), Node("y", [1, "a"]), None],
    ],
)
def test_a_digest_sees_every_difference(other):
    batch = [torch.arange(4.0), {"y": [1, "a"]}, None]
    assert digest_of(batch) == digest_of([torch.arange(4.0), {"y": [1, "a"]}, None]) != digest_of(other)


def test_a_digest_of_any_kind_of_tensor():
    for dtype in (torch.bool, torch.bfloat16, torch.int64, torch.uint8):
        assert digest_of(torch.ones(3, dtype=dtype)) != digest_of(torch.zeros(3, dtype=dtype))
    assert digest_of(torch.ones(2, 3).t()) == digest_of(torch.ones(3, 2))
    assert digest_of(torch.tensor(1.0)) != digest_of(torch.ones(1))
    assert digest_of(torch.arange(3.0).numpy()) != digest_of(torch.zeros(3).numpy())
