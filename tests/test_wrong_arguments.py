"""Arguments of callbacks that are no object of their class are refused when the callback is made."""

from __future__ import annotations

import functools
import inspect
from math import inf, nan
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from torch import nn

import lightning_compress as lc
from lightning_compress.callbacks.base.plans import as_plan
from lightning_compress.core.errors import CompressError
from lightning_compress.core.instances import check_instances
from lightning_compress.core.kinds import HasKind
from lightning_compress.pruning.criteria.criterion import Criterion
from lightning_compress.pruning.criteria.l1 import L1
from lightning_compress.quantization.quantizers.lsq import LSQ
from lightning_compress.quantization.quantizers.lsq_activation import LSQActivation
from lightning_compress.testing.toys import ToyNet

NEEDED: dict[str, Any] = {"teacher": ToyNet(), "layers": ["conv1"]}  # arguments without a default
CALLBACKS = {name: getattr(lc, name) for name in lc.__all__ if inspect.isclass(getattr(lc, name)) and name[0].isupper()}


def families(hint: Any) -> list[type]:
    return [each for each in (hint, *get_args(hint)) if isinstance(each, type) and issubclass(each, HasKind)]


ARGUMENTS = [
    (cls, name)
    for cls in CALLBACKS.values()
    if cls.__module__.startswith("lightning_compress.callbacks") and "__init__" in vars(cls)
    for name, hint in get_type_hints(cls.__init__).items()
    if families(hint) or name in ("teacher", "weight_quantizer", "activation_quantizer")
]


NUMBERS = [
    (cls, name)
    for cls in CALLBACKS.values()
    if cls.__module__.startswith("lightning_compress.callbacks")
    for name, hint in get_type_hints(cls.__init__).items()
    if hint is float
]


def made(cls: type, **arguments: Any) -> Any:
    known = inspect.signature(cls).parameters
    return cls(**{**{name: value for name, value in NEEDED.items() if name in known}, **arguments})


def test_all_arguments_that_take_objects_are_looked_at():
    assert {("ChannelPruning", "criterion"), ("WeightPruning", "schedule"), ("KnowledgeDistillation", "teacher")} <= {
        (cls.__name__, name) for cls, name in ARGUMENTS
    }


@pytest.mark.parametrize(
    ("cls", "name"), ARGUMENTS, ids=lambda value: value if isinstance(value, str) else value.__name__
)
def test_a_name_in_place_of_an_object_is_refused(cls, name):
    with pytest.raises(
        CompressError, match=rf"{cls.__name__}: .*{name} must be .*got .*'l1'|{cls.__name__}: str does not"
    ):
        made(cls, **{name: "l1"})


def test_all_arguments_that_take_numbers_are_looked_at():
    assert {("JointSparsityQuantization", "rho"), ("InformationDropout", "strength")} <= {
        (cls.__name__, name) for cls, name in NUMBERS
    }


@pytest.mark.parametrize("value", [inf, -inf, nan])
@pytest.mark.parametrize(
    ("cls", "name"), NUMBERS, ids=lambda value: value if isinstance(value, str) else value.__name__
)
def test_what_is_no_finite_number_is_refused(cls, name, value):
    with pytest.raises(CompressError, match=rf"{cls.__name__}: .*{name}.*got .*(inf|nan)"):
        made(cls, **{name: value})


def test_a_class_in_place_of_an_object_is_refused_with_what_to_write():
    with pytest.raises(
        CompressError, match=r"criterion must be an object of Criterion .*got the class L1; write L1\(\)"
    ):
        lc.ChannelPruning(criterion=L1)
    with pytest.raises(CompressError, match=r"got the class ToyNet$"):
        check_instances("ChannelPruning", criterion=(ToyNet, Criterion))


def test_the_class_of_a_teacher_is_none():
    with pytest.raises(CompressError, match="KnowledgeDistillation: teacher must be a trained network"):
        lc.KnowledgeDistillation(nn.Linear)


@pytest.mark.parametrize("plan", [0.5, ["conv1"], True])
def test_what_is_no_plan_is_refused(plan):
    with pytest.raises(CompressError, match=r"plan: must be a Plan, a YAML file or a mapping .*uniform_plan"):
        as_plan(plan)


def test_none_and_an_object_are_taken():
    check_instances("X", criterion=(None, Criterion), other=(L1(), Criterion), file=(Path(), Path))


@pytest.mark.parametrize(
    "cls",
    [c for c in CALLBACKS.values() if "ignore" in getattr(c.__init__, "__annotations__", {})],
    ids=lambda c: c.__name__,
)
def test_a_text_in_place_of_globs_is_one_glob(cls):
    assert made(cls, ignore="conv1").ignore == made(cls, ignore=["conv1"]).ignore == ("conv1",)


@pytest.mark.parametrize("partial", [False, True])
def test_quantizers_of_weights_and_of_activations_are_not_taken_for_each_other(partial):
    for name, other in (("weight_quantizer", LSQActivation), ("activation_quantizer", LSQ)):
        with pytest.raises(CompressError, match=rf"{name} must be a .*; got .*{other.__name__}"):
            lc.QuantizationAwareTraining(**{name: functools.partial(other) if partial else other})
