"""The distillation losses' contract, collected from conf/, and reference values."""

from __future__ import annotations

from math import exp, inf, log, nan
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

import lightning_compress.conf
from lightning_compress.core.errors import CompressError
from lightning_compress.distillation.attention_transfer import AttentionTransfer
from lightning_compress.distillation.feature_mse import FeatureMSE
from lightning_compress.distillation.hinton import Hinton
from lightning_compress.distillation.logit_mse import LogitMSE
from lightning_compress.testing.losses import LossContract

FILES = sorted((Path(lightning_compress.conf.__file__).parent / "compress" / "loss").glob("*.yaml"))


class TestContract(LossContract):
    @pytest.fixture(params=FILES, ids=lambda file: file.stem)
    def loss(self, request):
        return instantiate(OmegaConf.load(request.param))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_hinton_by_hand(temperature):
    p = 1 / (1 + exp(-1.0 / temperature))  # teacher's first class: logits 1, 0; student's: 0, 0
    expected = temperature**2 * (p * log(p / 0.5) + (1 - p) * log((1 - p) / 0.5))
    value = Hinton(temperature)(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_logit_mse_by_hand():
    assert float(LogitMSE()(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]]))) == 2.5


@pytest.mark.parametrize("temperature", [0, -1.0, inf, nan])
def test_temperatures_that_cannot_be_are_refused(temperature):
    with pytest.raises(CompressError, match=f"temperature must be above 0 and finite, got {temperature}"):
        Hinton(temperature)


@pytest.mark.parametrize(
    ("shape", "dim", "given"),
    [
        ((6, 5), None, 1),
        ((6, 5), -1, 1),
        ((6, 5, 3), 1, 1),
        ((6, 3, 5), -1, 2),
        ((6, 3, 5), 2, 2),
        ((6, 5, 3, 2), None, 1),
        ((6, 3, 2, 5), -1, 3),
    ],
)
def test_hinton_is_a_mean_over_all_places_of_classes(shape, dim, given):
    student, teacher = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    rows = [x.movedim(given, -1).reshape(-1, 5).softmax(-1).double() for x in (student, teacher)]
    expected = (rows[1] * (rows[1] / rows[0]).log()).sum(1).mean()
    assert float(Hinton(dim=dim)(student, teacher)) == pytest.approx(float(expected), rel=1e-4)


def test_where_classes_are_is_asked_for_where_both_is_usual():
    outputs = torch.zeros(6, 3, 5)
    with pytest.raises(CompressError, match=r"Hinton: outputs of shape \(6, 3, 5\) may .* Hinton\(dim=-1\) or "):
        Hinton()(outputs, outputs)
    with pytest.raises(CompressError, match=r"outputs of shape \(6, 3, 5\) have no classes at dimension 3"):
        Hinton(dim=3)(outputs, outputs)


@pytest.mark.parametrize("make", [Hinton, FeatureMSE, AttentionTransfer])
@pytest.mark.parametrize("dim", [0, 1.5, True, "last"])
def test_dimensions_that_cannot_be_are_refused(make, dim):
    with pytest.raises(CompressError, match=f"{make.__name__}: dim must be the dimension of .*, got {dim!r}"):
        make(dim=dim)


@pytest.mark.parametrize("shape", [(8,), (8, 1)])
def test_hinton_needs_classes(shape):
    with pytest.raises(CompressError, match=r"Hinton: needs the logits of two classes .* use LogitMSE"):
        Hinton()(torch.zeros(shape), torch.zeros(shape))
