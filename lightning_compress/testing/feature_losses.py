"""Contract suite of feature losses. Subclass it, and give the fixture ``loss``."""

from __future__ import annotations

import pickle

import pytest
import torch

from lightning_compress.core.errors import CompressError
from lightning_compress.distillation.feature_loss import FeatureLoss


class FeatureLossContract:
    """A mean over the batch, a sum over pairs, zero at equality, any widths and sizes, no gradient to the teacher."""

    @pytest.fixture
    def loss(self) -> FeatureLoss:
        """Return the loss under test."""
        raise NotImplementedError

    @pytest.fixture(params=[(4, 8, 8), (7, 8, 8), (4, 4, 6), (2, 16, 8)], ids=str)
    def features(self, request) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features of a student with 4 channels of 8 x 8, and of several teachers."""
        generator = torch.Generator().manual_seed(0)
        student = torch.randn(6, 4, 8, 8, generator=generator).requires_grad_()
        return student, torch.randn(6, *request.param, generator=generator).requires_grad_()

    def test_a_finite_scalar_above_zero(self, loss, features) -> None:
        value = loss(*([f] for f in features))
        assert value.shape == ()
        assert value.isfinite()
        assert value > 0

    def test_zero_when_student_and_teacher_agree(self, loss, features) -> None:
        assert abs(loss([features[0]], [features[0]]).item()) < 1e-6

    def test_gradient_to_the_student_alone(self, loss, features) -> None:
        student, teacher = features
        loss([student], [teacher]).backward()
        assert student.grad is not None
        assert student.grad.isfinite().all()
        assert student.grad.abs().sum() > 0
        assert teacher.grad is None

    def test_a_step_down_the_gradient_lowers_it(self, loss, features) -> None:
        student, teacher = features
        before = loss([student], [teacher])
        (gradient,) = torch.autograd.grad(before, student)
        step = 0.01 * student.detach().norm() / gradient.norm()
        assert loss([student.detach() - step * gradient], [teacher]) < before

    def test_the_batch_size_does_not_matter(self, loss, features) -> None:
        more = [f.repeat(3, 1, 1, 1) for f in features]
        torch.testing.assert_close(loss(*([f] for f in more)), loss(*([f] for f in features)), rtol=1e-4, atol=1e-6)

    def test_pairs_are_added(self, loss, features) -> None:
        student, teacher = features
        one, other = loss([student], [teacher]), loss([student], [student.detach() + 1])
        both = loss([student, student], [teacher, student.detach() + 1])
        torch.testing.assert_close(both, one + other)

    def test_zeros_stay_finite(self, loss, features) -> None:
        student, teacher = torch.zeros_like(features[0], requires_grad=True), features[1]
        value = loss([student], [teacher])
        value.backward()
        assert value.isfinite()
        assert student.grad is not None
        assert student.grad.isfinite().all()

    def test_half_precision_is_taken(self, loss, features) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(*([f.bfloat16()] for f in features))
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, loss(*([f] for f in features)), rtol=0.05, atol=0.01)

    def test_shapes_that_do_not_match_are_named(self, loss) -> None:
        with pytest.raises(CompressError, match=r"shape \(2, 3, 4, 4\), the teacher's \(2, 3\)"):
            loss([torch.zeros(2, 3, 4, 4)], [torch.zeros(2, 3)])

    def test_picklable_and_equal_when_made_again(self, loss) -> None:
        assert pickle.loads(pickle.dumps(loss)) == loss
