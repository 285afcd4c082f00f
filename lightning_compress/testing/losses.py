"""Contract suite of distillation losses. Subclass it, and give the fixture ``loss``."""

from __future__ import annotations

import pickle

import pytest
import torch

from lightning_compress.distillation.loss import DistillationLoss


class LossContract:
    """A mean over the batch, zero at equality, with no gradient to the teacher."""

    @pytest.fixture
    def loss(self) -> DistillationLoss:
        """Return the loss under test."""
        raise NotImplementedError

    @pytest.fixture
    def outputs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits of student and teacher."""
        generator = torch.Generator().manual_seed(0)
        student, teacher = torch.randn(2, 8, 5, generator=generator)
        return student.requires_grad_(), teacher.requires_grad_()

    def test_a_finite_scalar_above_zero(self, loss, outputs) -> None:
        value = loss(*outputs)
        assert value.shape == ()
        assert value.isfinite()
        assert value > 0

    def test_zero_when_student_and_teacher_agree(self, loss, outputs) -> None:
        assert abs(loss(outputs[0], outputs[0]).item()) < 1e-6

    def test_gradient_to_the_student_alone(self, loss, outputs) -> None:
        student, teacher = outputs
        loss(student, teacher).backward()
        assert student.grad.abs().sum() > 0
        assert teacher.grad is None

    def test_the_batch_size_does_not_matter(self, loss, outputs) -> None:
        student, teacher = outputs
        torch.testing.assert_close(loss(student, teacher), loss(student.repeat(3, 1), teacher.repeat(3, 1)))

    def test_picklable_and_equal_when_made_again(self, loss) -> None:
        assert pickle.loads(pickle.dumps(loss)) == loss
