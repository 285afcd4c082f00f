"""Codebooks beside a callback that moves the mask of the same weight: codes are given when the mask stays."""

from __future__ import annotations

import pytest
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

import lightning_compress as lc
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.callbacks.variational_dropout import VariationalDropout
from lightning_compress.callbacks.weight_pruning import WeightPruning
from lightning_compress.core.errors import CompressError
from lightning_compress.pruning.patterns.kernel import Kernel
from lightning_compress.pruning.patterns.n_of_m import NofM
from lightning_compress.pruning.schedules.cubic import Cubic
from lightning_compress.pruning.schedules.iterative import Iterative
from lightning_compress.pruning.schedules.one_shot import OneShot
from lightning_compress.quantization.quantizers.codebook import Codebook
from lightning_compress.surgery.mask import mask_of
from lightning_compress.surgery.structure import structure_of
from lightning_compress.surgery.transforms import raw_weight, weight_transforms
from lightning_compress.testing.toys import QUIET, PlainModule, toy_data

LAYERS = ("conv1", "conv2")
BITS = {name: {"weight_bits": 4} for name in LAYERS}


def masks(pattern, schedule):
    density = 0.5 if isinstance(pattern, NofM) else 0.2
    return WeightPruning({name: {"density": density} for name in LAYERS}, pattern, schedule, every=1)


METHODS = {
    "one-shot": lambda: masks(None, OneShot()),
    "cubic": lambda: masks(None, Cubic(0, 0.6)),
    "cubic to the end": lambda: masks(None, Cubic(0, 1.0)),
    "iterative kernels": lambda: masks(Kernel(), Iterative(3, 0.6)),
    "cubic 2:4": lambda: masks(NofM(), Cubic(0, 0.6)),
    "variational": lambda: VariationalDropout({name: {"variational": 1} for name in LAYERS}, strength=0.1),
    "variational kernels": lambda: VariationalDropout({n: {"variational": 1} for n in LAYERS}, Kernel(), strength=0.1),
}


class Watch(QuantizationAwareTraining):
    """Notes of each step what ``conv1`` is, as the forward pass sees it."""

    def __init__(self, seen: list) -> None:
        super().__init__(BITS, weight_quantizer=Codebook)
        self.seen = seen

    def on_train_batch_end(self, trainer, pl_module, *_):
        layer = pl_module.model.conv1
        frozen = bool(next(t for t in weight_transforms(layer) if isinstance(t, Codebook)).frozen)
        self.seen.append((frozen, raw_weight(layer).detach().clone(), layer.weight.detach().clone()))


Watch.kind = "quantization"  # under which its plan is recorded


def fit(callbacks, epochs=6, folder=None, ckpt=None, module=None):
    seed_everything(1, verbose=False)
    module = PlainModule() if module is None else module
    saving = [ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)] if folder else []
    settings = {**QUIET, "enable_checkpointing": bool(saving)}
    Trainer(max_epochs=epochs, callbacks=[*callbacks, *saving], **settings).fit(module, *toy_data(0), ckpt_path=ckpt)
    return module


@pytest.mark.parametrize("method", METHODS)
def test_weights_are_trained_until_their_mask_stays_and_then_their_values(method, tmp_path):
    seen: list = []
    alone, both = fit([METHODS[method]()]), fit([METHODS[method](), Watch(seen)])
    frozen = [now for now, _, _ in seen]
    assert frozen == sorted(frozen)  # once for all
    resting = [step for step in seen if not step[0]]
    assert bool(resting) == (method != "one-shot")
    for _, raw, weight in resting:
        assert torch.equal(weight[weight != 0], raw[weight != 0])
    if resting:
        assert not torch.equal(resting[0][1], resting[-1][1])
    if not all(frozen[-5:]):
        assert method == "cubic to the end"
    elif method != "one-shot":
        (_, raw, _), (_, _, first), (_, _, last) = resting[-1], seen[len(resting)], seen[-1]
        kept = first != 0
        assert (first - raw)[kept].square().sum() < 0.1 * raw[kept].square().sum()  # one step later
        assert not torch.equal(first, last)  # the values are trained
    for name in LAYERS:
        layer = both.model.get_submodule(name)
        mask, expected = mask_of(layer), mask_of(alone.model.get_submodule(name))
        assert float(mask.float().mean()) == pytest.approx(float(expected.float().mean()), abs=0.02)
        assert len(layer.weight[mask].unique()) <= 16
        assert (layer.weight[~mask] == 0).all()
    x = next(iter(toy_data(0)[1]))[0]
    loaded = lc.load(lc.save(both.eval(), tmp_path / "a"), PlainModule())
    torch.testing.assert_close(loaded(x), both(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", ["cubic", "variational"])
@pytest.mark.parametrize("epoch", [1, 4], ids=["before the codes", "after"])
def test_resumes_tensor_for_tensor(method, epoch, tmp_path):
    callbacks = lambda: [METHODS[method](), QuantizationAwareTraining(BITS, weight_quantizer=Codebook)]  # noqa: E731
    whole = fit(callbacks(), folder=tmp_path).state_dict()
    resumed = fit(callbacks(), ckpt=tmp_path / f"epoch={epoch}.ckpt").state_dict()
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_a_stage_after_the_masks_trains_values_from_the_first_step():
    module, seen = fit([METHODS["cubic"]()]), []
    mask = mask_of(module.model.conv1).clone()
    fit([Watch(seen)], 2, module=module)
    assert all(frozen for frozen, _, _ in seen)
    assert torch.equal(mask_of(module.model.conv1), mask)
    assert structure_of(module.model).profile["conv1"].codebook == 16


def test_a_file_of_weights_that_wait_for_their_codes_is_refused(tmp_path):
    class Save(Watch):
        def on_train_batch_end(self, trainer, pl_module, *_):
            with pytest.raises(CompressError, match="layer 'conv1' has no codes yet, for its mask still moves"):
                lc.save(pl_module, tmp_path / "a")
            self.seen.append(True)
            trainer.should_stop = True

    Save.kind = "quantization"
    seen: list = []
    module = fit([METHODS["cubic"](), Save(seen)], 1)
    assert seen
    assert lc.save(module, tmp_path / "a").is_file()
