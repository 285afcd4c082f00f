"""Modules that optimize by hand, with two optimizers a batch: schedules go by batches, the KL is added once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from lightning import Trainer
from lightning.pytorch.callbacks import Callback

import lightning_compress as lc
from lightning_compress.pruning.schedules.cubic import Cubic
from lightning_compress.surgery.mask import mask_of
from lightning_compress.surgery.structure import network
from lightning_compress.testing.toys import QUIET, PlainModule, toy_data

BATCHES = len(toy_data(0)[0])


class ByHand(PlainModule):
    """One optimizer for the convolutions, one for all else, both stepped in each batch."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch[0]), batch[1])
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()

    def configure_optimizers(self):
        first = list(self.model.conv1.parameters())
        others = [p for p in self.parameters() if all(p is not q for q in first)]
        return torch.optim.SGD(first, lr=0.01), torch.optim.SGD(others, lr=0.01)


class Watch(Callback):
    """Notes what a function of the module gives after each batch."""

    def __init__(self, what):
        self.what, self.seen = what, []

    def on_train_batch_end(self, trainer, pl_module, *_args):
        self.seen.append(self.what(pl_module))


def watched(what, callback, **settings) -> list:
    watch = Watch(what)
    trainer = Trainer(callbacks=[callback, watch], **{"max_epochs": 2, **settings}, **QUIET)
    trainer.fit(ByHand(), toy_data(0)[0])
    return watch.seen


@pytest.mark.parametrize("every", [1, 3])
def test_pruning_takes_as_long_as_with_one_optimizer(every):
    pruning = lc.WeightPruning({"conv1": {"density": 0.2}}, schedule=Cubic(end=1.0), every=every)
    seen = watched(lambda module: float(mask_of(network(module).conv1).float().mean()), pruning)
    shares = [Cubic(end=1.0)(step // every * every / (2 * BATCHES)) for step in range(2 * BATCHES)]
    assert seen == pytest.approx([1 - 0.8 * share for share in shares], abs=0.01)


@pytest.mark.parametrize(("settings", "batches"), [({}, 2 * BATCHES), ({"max_steps": 2 * BATCHES}, BATCHES)])
def test_noise_ends_when_its_share_of_the_batches_is_over(settings, batches):
    noise = lc.VariationalDropout({"conv1": {"variational": 1}}, warmup=(0.0, 0.1), end=0.5)

    def ended(module) -> bool:
        return bool(network(module).conv1.parametrizations["weight"][0].ended)

    assert watched(ended, noise, **settings) == [number >= batches / 2 for number in range(batches)]


def test_the_gradient_of_the_kl_is_added_once():
    noise = lc.VariationalDropout({"conv1": {"variational": 1}, "conv2": {"variational": 1}}, warmup=(0, 0), end=1.0)
    twice = []

    class Adds(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            layers = (network(pl_module).get_submodule(name) for name in ("conv1", "conv2"))
            twice.append([layer.parametrizations["weight"][0].raw_log_variance.grad.norm() for layer in layers])

    Trainer(max_epochs=1, limit_train_batches=1, callbacks=[Adds(), noise, Adds()], **QUIET).fit(
        ByHand(), toy_data(0)[0]
    )
    before, after_one, still, after_both = (torch.stack(norms) for norms in twice)
    assert torch.equal(after_one, still)
    assert after_one[1] == before[1]  # the first optimizer has conv1 alone
    assert after_both[0] == after_one[0]
    assert after_one[0] != before[0]
    assert after_both[1] != still[1]
