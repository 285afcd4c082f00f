"""Noise is not decayed: groups are split for the step alone, and schedulers and checkpoints see none of it."""

from __future__ import annotations

import pytest
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from lightning_compress.callbacks.base.weight_decay import keep_from_decay, make_whole
from lightning_compress.callbacks.information_dropout import InformationDropout
from lightning_compress.callbacks.log_normal_dropout import LogNormalDropout
from lightning_compress.callbacks.variational_dropout import VariationalDropout
from lightning_compress.pruning.noise.noise import Noise
from lightning_compress.testing.toys import QUIET, PlainModule, toy_data

OPTIMIZERS = {
    "sgd": lambda p, decay: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=decay),
    "adam": lambda p, decay: torch.optim.Adam(p, lr=0.01, weight_decay=decay),
    "adamw": lambda p, decay: torch.optim.AdamW(p, lr=0.01, weight_decay=decay),
}
NOISES = {
    "variational": lambda: [VariationalDropout({"conv1": {"variational": 1}})],
    "log_normal": lambda: [LogNormalDropout({"conv1": {"log_normal": 1}})],
    "information": lambda: [InformationDropout({"conv1": {"information": 1}}, strength=0.01)],
    "two": lambda: [LogNormalDropout({"stem.0": {"log_normal": 1}}), VariationalDropout({"conv1": {"variational": 1}})],
}


def fit(callbacks, optimizer, decay, epochs=1, folder=None, ckpt=None, **settings):
    seed_everything(1, verbose=False)
    module = PlainModule()

    def configure_optimizers():
        made = OPTIMIZERS[optimizer](module.parameters(), decay)
        return [made], [torch.optim.lr_scheduler.OneCycleLR(made, 0.05, 40)]

    module.configure_optimizers = configure_optimizers
    saving = [ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)] if folder else []
    settings = {**QUIET, **settings, "enable_checkpointing": bool(saving)}
    trainer = Trainer(max_epochs=epochs, callbacks=[*callbacks, *saving], **settings)
    trainer.fit(module, *toy_data(0), ckpt_path=ckpt)
    return module, trainer


def noise_parameters(module) -> list[torch.Tensor]:
    return [p.detach() for m in module.modules() if isinstance(m, Noise) for p in m.parameters()]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("noise", NOISES)
def test_a_step_with_decay_moves_the_noise_as_one_without(noise, optimizer):
    one = {"limit_train_batches": 1, "max_steps": 1}
    plain, decayed = (fit(NOISES[noise](), optimizer, decay, **one)[0] for decay in (0.0, 0.5))
    assert noise_parameters(plain)
    for a, b in zip(noise_parameters(plain), noise_parameters(decayed), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    weights = [m.model.conv2.weight for m in (plain, decayed)]
    assert not torch.allclose(*weights, rtol=1e-3)


def test_groups_are_those_of_the_user_after_a_step_and_after_one_that_raised():
    a, b, c, d = (nn.Parameter(torch.ones(2)) for _ in range(4))
    optimizer = torch.optim.AdamW([{"params": [a, b, c]}, {"params": [d], "weight_decay": 0.0}], weight_decay=0.5)
    before = [{**group, "params": list(group["params"])} for group in optimizer.param_groups]
    keep_from_decay(optimizer, [b])
    keep_from_decay(optimizer, [c, d])

    def same() -> bool:
        return len(before) == len(optimizer.param_groups) and all(
            [id(p) for p in group.pop("params")] == [id(p) for p in was.pop("params")] and group == was
            for group, was in zip([dict(g) for g in optimizer.param_groups], [dict(w) for w in before], strict=True)
        )

    for parameter in (a, b, c, d):
        parameter.grad = torch.zeros(2)
    optimizer.step()
    assert same()
    assert [float(p[0]) < 1 for p in (a, b, c, d)] == [True, False, False, False]
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)
    assert not same()
    make_whole(optimizer)
    assert same()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_resumes_tensor_for_tensor(optimizer, tmp_path):
    whole, _ = fit(NOISES["two"](), optimizer, 0.01, 4, tmp_path)
    saved = torch.load(tmp_path / "epoch=1.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"]
    assert len(saved) == 1
    resumed, _ = fit(NOISES["two"](), optimizer, 0.01, 4, ckpt=tmp_path / "epoch=1.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_an_interrupted_training_leaves_whole_groups():
    class Interrupt(PlainModule):
        def on_before_optimizer_step(self, optimizer):
            raise RuntimeError("stop")

    seed_everything(1, verbose=False)
    module = Interrupt()
    module.configure_optimizers = lambda: OPTIMIZERS["adamw"](module.parameters(), 0.5)
    trainer = Trainer(max_epochs=1, callbacks=NOISES["two"](), **QUIET)
    with pytest.raises(RuntimeError, match="stop"):
        trainer.fit(module, *toy_data(0))
    assert [len(group["params"]) for group in trainer.optimizers[0].param_groups] == [len([*module.parameters()])]
