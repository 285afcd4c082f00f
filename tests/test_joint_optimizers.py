"""The proximal step of joint sparsity and quantization beside the optimizers and loaders of users."""

from __future__ import annotations

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from test_joint import EVERYWHERE, state_of, train
from torch.utils.data import DataLoader, IterableDataset

from lightning_compress.callbacks.joint import JointSparsityQuantization
from lightning_compress.core.errors import CompressError
from lightning_compress.surgery.transforms import raw_weight
from lightning_compress.testing.toys import QUIET, PlainModule


def test_the_proximal_step_follows_the_optimizers_own_at_its_learning_rate():
    torch.manual_seed(0)
    seen = []

    class Watch(JointSparsityQuantization):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            super().on_before_optimizer_step(trainer, pl_module, optimizer)
            state, weight = state_of(pl_module.model, "conv1"), raw_weight(pl_module.model.conv1)
            if state.frozen:
                return
            rate = 0.1 / (trainer.global_step + 1)
            self.expected = (weight - rate * weight.grad + rate * 0.5 * (state.duplicate - state.dual)) / (
                1 + rate * 0.5
            )

        def on_train_batch_end(self, trainer, pl_module, *args):
            super().on_train_batch_end(trainer, pl_module, *args)
            if not state_of(pl_module.model, "conv1").frozen:
                seen.append((self.expected.detach(), raw_weight(pl_module.model.conv1).detach().clone()))

    def falling(parameters):
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    train([Watch({"conv1": {"joint": 1}}, rho=0.5)], 2, falling)
    assert len(seen) > 5
    for expected, found in seen:
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("every", "accumulate", "epochs", "steps"), [
    (None, 1, 15, range(0, 120, 8)), (None, 4, 15, range(0, 30, 2)), (None, 3, 15, range(0, 45, 3)),
    (None, 1, 4, range(0, 32, 2)), (None, 1, 1, range(8)), (2, 4, 3, [0, 2, 4]), (1, 4, 3, range(6)),
])  # fmt: skip
def test_it_projects_once_a_step_also_when_gradients_accumulate(every, accumulate, epochs, steps):
    found = []

    class Watch(JointSparsityQuantization):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            before = state_of(pl_module.model, "conv1").dual.clone()
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
            if not torch.equal(state_of(pl_module.model, "conv1").dual, before):
                found.append(trainer.global_step)

    callback = Watch({"conv1": {"joint": 1}}, limits=(0.1,), every=every, bits_until=1, end=1)
    train([callback], epochs, accumulate_grad_batches=accumulate)
    assert found == list(steps)


def test_resumed_with_accumulated_gradients_it_trains_on_as_if_never_stopped(tmp_path):
    def fit(ckpt=None):
        saving = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
        callback = JointSparsityQuantization(EVERYWHERE, limits=(0.1, 0.05), every=2)
        return train([callback, saving], 4, ckpt=ckpt, accumulate_grad_batches=3, enable_checkpointing=True)[0]

    whole = fit().state_dict()
    resumed = fit(tmp_path / "epoch=0.ckpt").state_dict()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_data_without_a_length_need_a_period():
    def fit(every):
        stream = DataLoader(Stream(), None)
        callback = JointSparsityQuantization(EVERYWHERE, limits=(0.1,), every=every)
        Trainer(max_steps=6, callbacks=[callback], **QUIET).fit(PlainModule(), stream)

    with pytest.raises(CompressError, match=r"train data have no length.* give every"):
        fit(None)
    fit(2)


class Stream(IterableDataset):
    def __iter__(self):
        while True:
            yield torch.randn(8, 1, 8, 8), torch.randint(4, (8,))


class TwoOptimizers(PlainModule):
    """Steps by hand: Adam for the head after every second batch, SGD for the rest after each."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.manual_backward(super().training_step(batch, batch_idx))
        for optimizer in self.optimizers()[: 1 + batch_idx % 2]:
            optimizer.step()
            optimizer.zero_grad()


def test_with_two_optimizers_each_weight_is_pulled_by_its_own():
    pulled = []

    class Watch(JointSparsityQuantization):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            weights = {n: raw_weight(pl_module.model.get_submodule(n)) for n in ("conv1", "fc")}
            before = {n: w.grad for n, w in weights.items()}
            super().on_before_optimizer_step(trainer, pl_module, optimizer)
            changed = [n for n, gradient in before.items() if weights[n].grad is not gradient]
            pulled.append((type(optimizer).__name__, changed))

        def on_train_batch_end(self, trainer, pl_module, *args):
            before = {n: raw_weight(pl_module.model.get_submodule(n)).detach().clone() for n in ("conv1", "fc")}
            super().on_train_batch_end(trainer, pl_module, *args)
            changed = [n for n, w in before.items() if not torch.equal(raw_weight(pl_module.model.get_submodule(n)), w)]
            pulled.append(("end", changed))

    module = TwoOptimizers()

    def both(_):
        *rest, weight, bias = module.parameters()  # the head's are the last
        return torch.optim.SGD(rest, lr=0.1), torch.optim.Adam([weight, bias], lr=0.01)

    train([Watch({"conv1": {"joint": 1}, "fc": {"joint": 1}}, limits=(0.1,), bits_until=1, end=1)], 1, both, module)
    assert pulled[:5] == [("SGD", []), ("end", ["conv1"]), ("SGD", []), ("Adam", ["fc"]), ("end", ["conv1"])]
