"""The teacher at each step: in eval mode, without gradients, on the precision of the student, and never changed."""

from __future__ import annotations

import copy

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import nn

import lightning_compress as lc
from lightning_compress.distillation.logit_mse import LogitMSE
from lightning_compress.testing.toys import QUIET, PlainModule, ToyNet, toy_data


class Dropped(ToyNet):
    """A network with dropout, which shows in what mode it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.Sequential(self.pool, nn.Dropout(0.5))


class Meddles(Callback):
    """Puts a network in training mode and asks it for gradients before each step, and notes how it is called."""

    def __init__(self, net: nn.Module) -> None:
        self.net, self.modes = net, []
        net.bn1.register_forward_hook(lambda layer, args, out: self.modes.append((layer.training, out.requires_grad)))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch, batch_idx) -> None:
        self.net.train().requires_grad_(True)


def terms(teacher: nn.Module) -> list[Callback]:
    return [
        lc.KnowledgeDistillation(teacher),
        lc.FeatureDistillation(teacher, ["conv1"], weight=0.1),
    ]


def fit(module: LightningModule, callbacks: list[Callback], **settings) -> None:
    Trainer(max_epochs=1, limit_train_batches=3, limit_val_batches=0, callbacks=callbacks, **QUIET, **settings).fit(
        module, toy_data(0)[0]
    )


def test_the_teacher_evaluates_at_each_step_whatever_other_code_does():
    torch.manual_seed(0)
    teacher, module = Dropped(), PlainModule()
    before = copy.deepcopy(teacher.state_dict())
    meddles = Meddles(teacher)
    fit(module, [meddles, *terms(teacher)])
    assert len(meddles.modes) == 6
    assert set(meddles.modes) == {(False, False)}
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("mixin", [False, True])
@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true", "bf16-mixed"])
def test_any_precision_trains_with_both_distillations(precision, mixin):
    class Mixed(lc.CompressibleMixin, PlainModule):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) + self.compression_loss()

    torch.manual_seed(0)
    teacher = ToyNet()
    module, plain = (Mixed() if mixin else PlainModule()), PlainModule()
    plain.load_state_dict(module.state_dict())
    fit(module, terms(teacher), precision=precision)
    fit(plain, [], precision=precision)
    assert all(p.dtype == torch.float32 for p in teacher.parameters())
    assert all(p.isfinite().all() for p in module.parameters())
    assert not torch.equal(module.model.fc.weight, plain.model.fc.weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_teacher_speaks_the_precision_of_the_student(dtype):
    module, teacher = PlainModule().to(dtype), ToyNet()
    callback = lc.KnowledgeDistillation(teacher, LogitMSE())
    callback._follow(module.model)
    assert callback.ask((torch.zeros(2, 1, 8, 8, dtype=dtype),), {}).dtype == dtype
    assert callback.asked is not teacher
