"""Feature distillation in a Trainer: the term falls, layers are named, the teacher stays outside the module."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from lightning import Trainer, seed_everything
from torch import nn

from lightning_compress.callbacks.base.mixin import CompressibleMixin
from lightning_compress.callbacks.distillation import KnowledgeDistillation
from lightning_compress.callbacks.feature_distillation import FeatureDistillation
from lightning_compress.core.errors import CompressError, NoEffectError
from lightning_compress.distillation.attention_transfer import AttentionTransfer
from lightning_compress.distillation.feature_mse import FeatureMSE
from lightning_compress.testing.toys import QUIET, PlainModule, ToyNet, toy_data

LAYERS = ["stem", "bn2"]


class MixedModule(CompressibleMixin, PlainModule):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + self.compression_loss()


class FeaturesOnly(PlainModule):
    """Nothing but the term that the callback adds."""

    def training_step(self, batch, batch_idx):
        return 0.0 * self(batch[0]).sum()


def trainer(callbacks, epochs: int = 1, **settings) -> Trainer:
    return Trainer(max_epochs=epochs, callbacks=callbacks, **{**QUIET, **settings})


def wide(width: int = 12, seed: int = 5) -> ToyNet:
    torch.manual_seed(seed)
    return ToyNet(width)


def outputs(net: nn.Module, names, x) -> list[torch.Tensor]:
    """Return what the named layers give for ``x``, by hooks of the test's own."""
    found, handles = {}, []
    for name in names:
        layer = net.get_submodule(name)
        handles.append(layer.register_forward_hook(lambda _m, _a, out, n=name: found.update({n: out.detach()})))
    net(x)
    for handle in handles:
        handle.remove()
    return [found[name] for name in names]


def distance(student: nn.Module, teacher: nn.Module, loss) -> float:
    """Return the term on the validation images, in the modes of training."""
    x = toy_data(0)[1].dataset.images
    return float(loss(outputs(student.train(), LAYERS, x), outputs(teacher.eval(), LAYERS, x)))


@pytest.mark.parametrize("loss", [AttentionTransfer(), FeatureMSE()], ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("width", [8, 12])
def test_the_term_falls_when_it_is_trained(loss, width):
    seed_everything(1, verbose=False)
    module, teacher = FeaturesOnly(), wide(width)
    before = distance(module.model, teacher, loss)
    trainer([FeatureDistillation(teacher, LAYERS, loss, weight=5.0)], epochs=5).fit(module, *toy_data(0))
    assert distance(module.model, teacher, loss) < 0.7 * before


def test_the_loss_is_the_own_one_and_the_weighted_term():
    seed_everything(1, verbose=False)
    module, teacher, losses = PlainModule(), wide().eval(), []
    twin = copy.deepcopy(module.model).train()
    module.backward = lambda loss: (losses.append(loss.detach()), loss.backward())
    callback = FeatureDistillation(teacher, {"stem": "conv1", "conv2": "bn2"}, FeatureMSE(), weight=0.3)
    trainer([callback], limit_train_batches=1, limit_val_batches=0).fit(module, toy_data(0)[0])
    x, y = next(iter(toy_data(0)[0]))
    mine = outputs(twin, ["stem", "conv2"], x)
    term = FeatureMSE()(mine, outputs(teacher, ["conv1", "bn2"], x))
    torch.testing.assert_close(losses[0], F.cross_entropy(twin(x), y).detach() + 0.3 * term)


@pytest.mark.parametrize("cls", [PlainModule, MixedModule])
def test_beside_knowledge_distillation_and_with_the_mixin(cls):
    seed_everything(1, verbose=False)
    module, teacher = cls(), wide()
    run = trainer([KnowledgeDistillation(teacher), FeatureDistillation(teacher, LAYERS)])
    run.fit(module, *toy_data(0))
    assert {"distillation_loss", "feature_distillation_loss"} <= run.callback_metrics.keys()
    assert "training_step" not in module.__dict__
    assert not any(layer._forward_hooks for layer in (module.model, module.model.stem, module.model.bn2))
    assert not any(layer._forward_hooks for layer in teacher.modules())


def test_the_teacher_is_in_no_checkpoint_and_stays_as_it_was(tmp_path):
    seed_everything(1, verbose=False)
    module, teacher = PlainModule(), wide()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    run = trainer([FeatureDistillation(teacher, LAYERS, FeatureMSE())])
    run.fit(module, *toy_data(0))
    run.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert checkpoint["state_dict"].keys() == PlainModule().state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["stm"], r"student ToyNet has no layer 'stm'; did you mean 'stem'"),
        ({"stem": "bn3"}, r"teacher ToyNet has no layer 'bn3'; did you mean"),
    ],
)
def test_unknown_layers_are_named_with_a_hint(layers, message):
    with pytest.raises(CompressError, match=message):
        trainer([FeatureDistillation(wide(), layers)]).fit(PlainModule(), *toy_data(0))


def test_layers_that_do_not_run_or_give_no_tensor_are_named():
    class Odd(ToyNet):
        def __init__(self):
            super().__init__()
            self.unused, self.pair = nn.Identity(), Pair()

        def forward(self, x):
            return super().forward(self.pair(x)[0])

    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    for name, message in (
        ("unused", "teacher did not run its layer 'unused'"),
        ("pair", "'pair' of the teacher returns a tuple"),
    ):
        with pytest.raises(CompressError, match=message):
            trainer([FeatureDistillation(Odd(), {"stem": name})]).fit(PlainModule(), *toy_data(0))


def test_no_layers_weights_out_of_range_and_oneself_are_refused():
    with pytest.raises(NoEffectError, match="no layers are given"):
        FeatureDistillation(wide(), [])
    with pytest.raises(CompressError, match="weight must be above 0 and finite, got 0"):
        FeatureDistillation(wide(), LAYERS, weight=0)
    module = PlainModule()
    with pytest.raises(CompressError, match="the teacher is the PlainModule that is trained"):
        trainer([FeatureDistillation(module, LAYERS)]).fit(module, *toy_data(0))
