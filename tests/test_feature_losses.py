"""The feature losses' contract, collected from conf/, and reference values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

import lightning_compress.conf
from lightning_compress.core.errors import CompressError
from lightning_compress.distillation.attention_transfer import AttentionTransfer, attention
from lightning_compress.distillation.feature_loss import matched
from lightning_compress.distillation.feature_mse import FeatureMSE
from lightning_compress.testing.feature_losses import FeatureLossContract

FILES = sorted((Path(lightning_compress.conf.__file__).parent / "compress" / "feature_loss").glob("*.yaml"))


class TestContract(FeatureLossContract):
    @pytest.fixture(params=FILES, ids=lambda file: file.stem)
    def loss(self, request):
        return instantiate(OmegaConf.load(request.param))


def features(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_attention_transfer_by_hand():
    student = torch.tensor([[[[3.0, 0.0]], [[0.0, 2.0]]]])  # Q = (9, 4), length sqrt(97)
    teacher = torch.tensor([[[[0.0, 5.0]]]])  # Q = (0, 25)
    expected = ((9 / 97**0.5) ** 2 + (4 / 97**0.5 - 1) ** 2) / 2
    assert float(AttentionTransfer()([student], [teacher])) == pytest.approx(expected, rel=1e-6)


def test_attention_does_not_depend_on_strength_or_order_of_channels():
    x = features(3, 5, 4, 4)
    torch.testing.assert_close(attention(7 * x[:, [4, 2, 0, 1, 3]]), attention(x))
    torch.testing.assert_close(attention(x).square().sum(1), torch.ones(3))


def test_attention_of_pooled_features_is_refused():
    with pytest.raises(CompressError, match=r"shape \(2, 3, 1, 1\) has no spatial map"):
        AttentionTransfer()([torch.ones(2, 3, 1, 1)], [torch.ones(2, 3, 4, 4)])
    with pytest.raises(CompressError, match="has no spatial map"):
        AttentionTransfer()([torch.ones(2, 3)], [torch.ones(2, 3)])


def test_feature_mse_by_hand():
    assert float(FeatureMSE()([torch.tensor([[1.0, 2.0]])], [torch.tensor([[0.0, 4.0]])])) == 2.5


@pytest.mark.parametrize("widths", [(3, 6), (6, 3)])
def test_feature_mse_of_other_widths_is_the_residual_of_a_regression(widths):
    student, teacher = features(8, widths[0], 5, 5), features(8, widths[1], 5, 5, seed=1)
    rows = [x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).double().numpy() for x in (student, teacher)]
    design = np.hstack([rows[0], np.ones((len(rows[0]), 1))])
    residual = rows[1] - design @ np.linalg.lstsq(design, rows[1], rcond=None)[0]
    assert float(FeatureMSE()([student], [teacher])) == pytest.approx((residual**2).mean(), rel=1e-4)


def test_feature_mse_is_small_when_the_teacher_is_a_map_of_the_student():
    student = features(4, 3, 6, 6)
    teacher = torch.einsum("nchw,cd->ndhw", student, features(3, 7, seed=1)) + 5
    assert float(FeatureMSE()([student], [teacher])) < 1e-6


def test_the_gradient_without_the_map_is_the_gradient_with_it():
    student = features(8, 3, 5, 5).double().requires_grad_()
    teacher = features(8, 6, 5, 5, seed=1).double()
    rows = [x.movedim(1, -1).flatten(0, -2) for x in (student, teacher)]
    rows = [x - x.mean(0) for x in rows]
    through = (rows[0] @ torch.linalg.lstsq(rows[0], rows[1]).solution - rows[1]).square().mean()
    (expected,) = torch.autograd.grad(through, student)
    (found,) = torch.autograd.grad(FeatureMSE()([student], [teacher]), student)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("sizes", [((8, 8), (4, 4)), ((8, 4), (4, 8)), ((9,), (6,)), ((4, 4, 4), (2, 2, 2)), ((), ())])
def test_spatial_sizes_meet_at_the_smaller(sizes):
    found = matched(*(torch.ones(2, 3, *size) for size in sizes))
    assert [tuple(f.shape[2:]) for f in found] == [tuple(map(min, *sizes)) if sizes[0] else ()] * 2
    assert all((f == 1).all() for f in found)


@pytest.mark.parametrize("dim", [-1, 2])
@pytest.mark.parametrize("loss", [FeatureMSE, AttentionTransfer])
@pytest.mark.parametrize("widths", [(4, 4), (4, 8), (8, 4)])
def test_widths_behind_tokens_are_channels_where_the_loss_is_told(loss, widths, dim):
    student, teacher = features(6, 5, widths[0]), features(6, 5, widths[1], seed=1)
    maps = [[x.permute(0, 2, 1)[:, :, None]] for x in (student, teacher)]  # (batch, channels, 1, tokens)
    torch.testing.assert_close(loss(dim=dim)([student], [teacher]), loss()(*maps))
    signals = [[x.permute(0, 2, 1)] for x in (student, teacher)]
    torch.testing.assert_close(loss(dim=1)(*signals), loss()(*maps))


@pytest.mark.parametrize(
    ("loss", "widths"), [(FeatureMSE, (4, 8)), (AttentionTransfer, (4, 8)), (AttentionTransfer, (4, 4))]
)
def test_where_channels_are_is_asked_for_where_both_is_usual(loss, widths):
    with pytest.raises(CompressError, match=rf"may have their channels last, .*{loss.__name__}\(dim=-1\) or "):
        loss()([features(6, 5, widths[0])], [features(6, 5, widths[1])])


def test_equal_shapes_are_compared_place_by_place_wherever_channels_are():
    student, teacher = features(6, 5, 4), features(6, 5, 4, seed=1)
    assert float(FeatureMSE()([student], [teacher])) == pytest.approx(float((student - teacher).square().mean()))
