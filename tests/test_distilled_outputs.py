"""Test what is distilled of outputs that are no tensor, and that direct calls of forward are seen."""

from __future__ import annotations

import copy
from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from lightning import Trainer
from torch import Tensor, nn

import lightning_compress as lc
from lightning_compress.distillation.feature_mse import FeatureMSE
from lightning_compress.distillation.logit_mse import LogitMSE
from lightning_compress.distillation.outputs import select_tensor
from lightning_compress.testing.toys import QUIET, PlainModule, ToyNet, toy_data

SCORES, OTHER = torch.randn(2, 4), torch.randn(2, 4, 3)
Pair = namedtuple("Pair", ["logits", "aux"])


@dataclass
class Output:
    """Output as models of transformers return it."""

    logits: Tensor
    hidden: tuple[Tensor, ...]


@pytest.mark.parametrize(
    ("output", "select"),
    [
        (SCORES, None), (SCORES, "out"), (Pair(SCORES, OTHER), None), (Output(SCORES, (OTHER,)), None),
        ({"aux": OTHER, "logits": SCORES}, None), ((SCORES, None), None), ([torch.arange(3), SCORES], None),
        ({"a": OTHER, "b": SCORES}, "b"), ((OTHER, SCORES), 1), ((OTHER, SCORES), -1),
        (OrderedDict(out=SCORES, aux=OTHER), "out"), ((OTHER, {"deep": SCORES}), lambda out: out[1]["deep"]),
    ],
)  # fmt: skip
def test_the_obvious_tensor_or_the_one_that_was_selected(output, select):
    assert select_tensor(output, select) is SCORES


@pytest.mark.parametrize(
    ("output", "select", "message"),
    [
        ((SCORES, OTHER), None, r"returns a tuple with the parts 0 \(2, 4\), 1 \(2, 4, 3\), .* pass select=, .*'0'"),
        ({"out": SCORES, "aux": OTHER}, "outt", r"a dict with no part of that name .* did you mean 'out'"),
        ({"out": [SCORES]}, "out", "no tensor of that name"),
        ("text", None, "a str with no parts"),
    ],
)
def test_an_output_without_an_obvious_tensor_is_told_with_its_parts(output, select, message):
    with pytest.raises(lc.CompressError, match=message):
        select_tensor(output, select)


class Wrapped(nn.Module):
    """Gives a dataclass, and inside a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Features()
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Output:
        features, _ = self.inner(x)
        return Output(self.fc(features.mean((2, 3))), (features,))


class Features(nn.Module):
    """Gives a tuple whose second part is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return self.conv(x).relu(), None


class Own(PlainModule):
    """Calls its network in one of several ways."""

    call = "self(x)"

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.model = net

    def training_step(self, batch, batch_idx):
        x, y = batch
        ways = {"self(x)": self, "self.forward(x)": self.forward, "self.model.forward(x)": self.model.forward}
        output = ways[self.call](x)
        return F.cross_entropy(getattr(output, "logits", output), y)


class Whole(Own):
    """Has two children with parameters, so that it is the network itself."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.scale = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale(self.model(x))


def logged(module: PlainModule, callback) -> dict[str, float]:
    trainer = Trainer(max_steps=2, limit_val_batches=0, callbacks=[callback], **QUIET)
    trainer.fit(module, toy_data(0)[0])
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_logits_and_features_of_outputs_that_are_no_tensors_are_distilled():
    torch.manual_seed(0)
    student, teacher = Own(Wrapped()), Own(Wrapped())
    assert logged(student, lc.KnowledgeDistillation(teacher, LogitMSE()))["distillation_loss"] > 0
    distance = logged(student, lc.FeatureDistillation(teacher, ["inner"], FeatureMSE()))
    assert distance["feature_distillation_loss"] > 0


def test_a_teacher_of_other_classes_is_told():
    teacher = ToyNet()
    teacher.fc = nn.Linear(32, 7)
    with pytest.raises(
        lc.CompressError, match=r"student gives outputs of shape \(32, 4\), the teacher of shape \(32, 7"
    ):
        logged(Own(ToyNet()), lc.KnowledgeDistillation(teacher))


@pytest.mark.parametrize("kind", [Own, Whole])
@pytest.mark.parametrize("call", ["self(x)", "self.forward(x)", "self.model.forward(x)"])
def test_every_way_to_call_the_network_is_seen_once(kind, call):
    if kind is Whole and call == "self.model.forward(x)":
        call = "self.forward(x)"  # a part of the network is not the network
    torch.manual_seed(0)
    module, teacher = kind(ToyNet()), kind(ToyNet())
    other = copy.deepcopy(module)
    other.call = call
    expected = logged(module, lc.KnowledgeDistillation(teacher))
    assert logged(other, lc.KnowledgeDistillation(teacher)) == expected
    assert "forward" not in {*other.__dict__, *other.model.__dict__}


def test_the_teacher_is_in_eval_mode_whoever_holds_it():
    teacher = Own(ToyNet())
    callback = lc.KnowledgeDistillation(teacher)
    teacher.train()
    before = copy.deepcopy(teacher.state_dict())
    logged(Own(ToyNet()), callback)
    torch.testing.assert_close(teacher.state_dict(), before, rtol=0, atol=0)
