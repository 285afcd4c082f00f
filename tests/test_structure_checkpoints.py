"""Checkpoints of networks whose layers were replaced bring back structure and weights, wherever they are loaded."""

from __future__ import annotations

import copy

import pytest
import torch
from lightning import Trainer, seed_everything

import lightning_compress as lc
from lightning_compress.callbacks.base.mixin import CompressibleMixin
from lightning_compress.callbacks.layer_removal import LayerRemoval
from lightning_compress.callbacks.low_rank import LowRank
from lightning_compress.core.errors import CompressError
from lightning_compress.pipeline.checkpoint import load_checkpoint
from lightning_compress.surgery.graph.blocks import Removed
from lightning_compress.surgery.low_rank.svd import SVD
from lightning_compress.surgery.low_rank.tucker import Tucker2
from lightning_compress.surgery.structure import NOTICE, network, structure_of
from lightning_compress.testing.toys import QUIET, PlainModule, ToyNet, toy_data

RANKS = {"conv1": {"rank_in": 0.5, "rank_out": 0.25}, "fc": {"rank_out": 0.5}}
CASES = {
    "low rank": (lambda: LowRank(RANKS), {"conv1": Tucker2, "fc": SVD}),
    "layer removal": (lambda: LayerRemoval({"conv1": {"keep": 0}}), {"conv1": Removed}),
}


class MixedModule(CompressibleMixin, PlainModule):
    """Written with the mixin, so that ``load_from_checkpoint`` works."""


def train(make, epochs: int, folder=None, ckpt=None):
    seed_everything(1, verbose=False)
    module = MixedModule()
    run = Trainer(max_epochs=epochs, callbacks=[make()], **QUIET)
    seed_everything(2, verbose=False)
    run.fit(module, *toy_data(0), ckpt_path=ckpt)
    if folder is not None:
        run.save_checkpoint(folder / "a.ckpt")
    return module


@pytest.mark.parametrize("case", CASES)
def test_structure_and_weights_come_back(case, tmp_path):
    make, replaced = CASES[case]
    module = train(make, 1, tmp_path).eval()
    x = torch.randn(4, 1, 8, 8)
    for loaded, exact in (
        (MixedModule.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True), True),
        (load_checkpoint(MixedModule(), tmp_path / "a.ckpt"), True),
        (lc.load(lc.save(module, tmp_path / "a"), MixedModule()), False),  # batch norms are folded
    ):
        for layer, cls in replaced.items():
            assert isinstance(network(loaded).get_submodule(layer), cls)
        tolerance = 0 if exact else 1e-4
        torch.testing.assert_close(loaded.eval()(x), module(x), rtol=tolerance, atol=tolerance)
        if exact:
            assert structure_of(network(loaded)).profile == structure_of(network(module)).profile


@pytest.mark.parametrize("case", CASES)
def test_training_goes_on_exactly(case, tmp_path):
    make, _ = CASES[case]
    train(make, 1, tmp_path)
    resumed, whole = train(make, 2, ckpt=tmp_path / "a.ckpt"), train(make, 2)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


def test_a_checkpoint_of_other_ranks_is_refused(tmp_path):
    train(CASES["low rank"][0], 1, tmp_path)
    module = MixedModule()
    LowRank({"conv1": {"rank_in": 0.5, "rank_out": 0.5}}).apply(network(module), torch.zeros(2, 1, 8, 8))
    with pytest.raises(CompressError, match=r"low_rank was saved with .*'rank_in': 0.5, 'rank_out': 0.25"):
        load_checkpoint(module, tmp_path / "a.ckpt")


class MadeLate(PlainModule):
    """Makes its network where Lightning says, after the callbacks' ``setup``."""

    def __init__(self):
        super().__init__()
        self.made, self.model = 0, None

    def configure_model(self):
        if self.model is None:
            self.made, self.model = self.made + 1, ToyNet()


@pytest.mark.parametrize("make", [make for make, _ in CASES.values()], ids=CASES)
def test_a_network_that_is_made_late_is_compressed_saved_and_loaded(tmp_path, make):
    module = MadeLate()
    Trainer(max_epochs=1, limit_train_batches=1, callbacks=[make()], **QUIET).fit(module, *toy_data(0))
    assert module.made == 1
    lc.save(module, tmp_path / "net.safetensors")
    x = torch.randn(2, 1, 8, 8)
    loaded = lc.load(tmp_path / "net.safetensors", MadeLate())
    torch.testing.assert_close(loaded.model(x), module.eval().model(x), rtol=1e-4, atol=1e-5)


def test_who_loads_without_callbacks_or_mixin_is_told_what_is_missing(tmp_path):
    train(lambda: LowRank(RANKS), 1, tmp_path)
    told = r"this checkpoint is of a compressed network.* give the Trainer the same compression callbacks, or, .*"
    message = rf"^PlainModule: {told}CompressibleMixin, LightningModule\)$"  # and no list of sizes
    with pytest.raises(CompressError, match=message):
        PlainModule.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    with pytest.raises(CompressError, match=message):
        PlainModule.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True, strict=False)
    with pytest.raises(CompressError, match=message):
        Trainer(max_epochs=2, **QUIET).fit(PlainModule(), *toy_data(0), ckpt_path=tmp_path / "a.ckpt")
    state = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    with pytest.raises(CompressError, match=message):
        PlainModule().load_state_dict(state)
    assert next(iter(state)) == NOTICE
    with pytest.raises(RuntimeError, match=r"\[lightning_compress: this checkpoint"):  # as where nothing is imported
        torch.nn.Module.load_state_dict(PlainModule(), state)
    with pytest.raises(
        CompressError, match=r"^load_state_dict: these weights are of a compressed network.*load_from_checkpoint"
    ):
        MixedModule().load_state_dict(state)


def test_a_compressed_network_loads_the_state_dict_by_hand(tmp_path):
    module = train(lambda: LowRank(RANKS), 1, tmp_path)
    state = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    example = torch.zeros(2, 1, 8, 8)
    by_callback, bare, other = PlainModule(), ToyNet(), ToyNet()
    Trainer(callbacks=[LowRank(RANKS)], **QUIET).validate(by_callback, toy_data(0)[1], verbose=False)
    LowRank(RANKS).apply(bare, example)
    LowRank({"conv1": {"rank_in": 0.5, "rank_out": 0.5}}).apply(other, example)
    of_network = {key.removeprefix("model."): value for key, value in state.items()}
    by_hand = PlainModule()
    LowRank(RANKS).apply(network(by_hand), example)
    for loaded, given in ((by_callback, state), (copy.deepcopy(bare), of_network), (by_hand, state)):
        loaded.load_state_dict(given)
        for key, value in network(module).state_dict().items():
            assert torch.equal(network(loaded).state_dict()[key], value), key
    assert NOTICE in state
    with pytest.raises(CompressError, match=r"'conv1.* has shape .* compressed by another plan"):
        other.load_state_dict(of_network)
