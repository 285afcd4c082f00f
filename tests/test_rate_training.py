"""Training by rate: weights are held as codes near the room, and the last steps have final codes that fit."""

from __future__ import annotations

import copy
from itertools import pairwise
from math import inf

import pytest
import torch
from lightning import Callback, Trainer
from torch.utils.data import DataLoader, IterableDataset

from lightning_compress.callbacks.rate_quantization import BEGIN, EVERY, GAIN, LAST, RateQuantization
from lightning_compress.core.plan import Plan
from lightning_compress.quantization.coders.range_coded import RangeCoded
from lightning_compress.quantization.quantizers.rate_grid import RateGrid
from lightning_compress.quantization.rate_distortion import stream_bytes
from lightning_compress.surgery.structure import structure_of
from lightning_compress.surgery.transforms import weight_transforms
from lightning_compress.testing.toys import QUIET, PlainModule, toy_data

CODER = RangeCoded()
LAYERS = ("stem.0", "conv1", "conv2", "fc")
STEPS = 24  # of 3 epochs
FIRST_FINAL = next(step for step in range(STEPS) if step / STEPS >= LAST)  # steps before the first with final codes


def grids_of(net) -> dict[str, RateGrid]:
    return {name: weight_transforms(net.get_submodule(name))[0] for name in LAYERS}


def codes_of(net) -> dict[str, torch.Tensor]:
    return {n: (net.get_submodule(n).weight / grid.scale).round().long() for n, grid in grids_of(net).items()}


def size_of(codes) -> int:
    return sum(stream_bytes(each, CODER) for each in codes.values())


def equal(a, b) -> bool:
    return all(torch.equal(a[name], b[name]) for name in LAYERS)


class Look(Callback):
    """Note what there is after each step."""

    def __init__(self) -> None:
        self.codes: list[dict[str, torch.Tensor]] = []  # that the forward pass sees
        self.known: list[dict[str, torch.Tensor]] = []  # that were counted last
        self.slopes: list[float] = []
        self.states: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        grids = grids_of(pl_module.model)
        self.codes.append(codes_of(pl_module.model))
        self.known.append({name: grid.coded.long() for name, grid in grids.items()})
        (slope,) = {float(grid.slope) for grid in grids.values()}
        assert all((grid.rates is not None) == (0 < slope < inf) for grid in grids.values())
        self.slopes.append(slope)
        self.states.append(copy.deepcopy(pl_module.state_dict()))


class Ends(Callback):
    """Stop after a step, or keep a checkpoint of it."""

    def __init__(self, step, file=None) -> None:
        self.step, self.file = step, file

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step and self.file is not None:
            trainer.save_checkpoint(self.file)
        trainer.should_stop = self.file is None and trainer.global_step >= self.step


def trained(bits, *others, data=None, ckpt=None, epochs=3):
    """Return a network, the bytes that its codes may take, and what was seen of its training."""
    torch.manual_seed(0)
    found, look = PlainModule(), Look()
    rate = RateQuantization(Plan({name: {"coded_bits": bits} for name in LAYERS}))
    run = Trainer(**QUIET | {"max_epochs": epochs, "callbacks": [rate, look, *others]})
    run.fit(found, toy_data(0)[0] if data is None else data, ckpt_path=ckpt)
    return found.model, bits / 8 * sum(layer.weights for layer in structure_of(found.model).profile.weighted), look


def test_weights_are_held_where_the_codes_near_the_room_and_free_below_it():
    net, room, look = trained(1)
    before = list(zip(look.known, look.slopes, strict=True))[:FIRST_FINAL]
    for codes, slope in before:
        assert slope == pytest.approx(GAIN * max(0.0, size_of(codes) / room - BEGIN), rel=1e-5)
    assert any(slope > 0 for _, slope in before)
    assert all(float(grid.slope) == 0 and grid.rates is None for grid in grids_of(net).values())


@pytest.mark.parametrize("bits", [0.7, 1.5])
def test_codes_are_final_in_the_last_steps_and_the_rest_is_trained(bits):
    net, room, look = trained(bits)
    final = look.codes[FIRST_FINAL]
    assert size_of(look.codes[FIRST_FINAL - 1]) > room  # else nothing is cut
    assert size_of(final) <= room
    assert all(slope == inf for slope in look.slopes[FIRST_FINAL:])
    assert all(equal(codes, final) for codes in [*look.codes[FIRST_FINAL:], codes_of(net)])
    norms = [state["model.bn1.weight"] for state in look.states[FIRST_FINAL:]]
    assert all(not torch.equal(a, b) for a, b in pairwise(norms))


def test_final_codes_are_those_of_a_checkpoint():
    net, _, look = trained(1.5)
    state = {key.removeprefix("model."): value for key, value in look.states[-2].items()}
    net.load_state_dict(state)
    assert equal(codes_of(net), look.codes[-2])


def test_a_training_that_is_given_more_steps_goes_on_from_its_final_codes(tmp_path):
    _, _, short = trained(1.5, Ends(STEPS - 2, tmp_path / "a.ckpt"))
    _, room, longer = trained(1.5, ckpt=tmp_path / "a.ckpt", epochs=6)
    look = EVERY - (STEPS - 2) % EVERY  # steps until the next one
    assert longer.slopes[look - 1] == inf != longer.slopes[look]
    assert equal(longer.codes[look], short.codes[STEPS - 3])
    assert not equal(longer.codes[-1], short.codes[-1])
    assert size_of(longer.codes[-1]) <= room


class Endless(IterableDataset):
    """The batches of the toy data, over and over."""

    def __iter__(self):
        while True:
            yield from toy_data(0)[0]


def test_a_training_without_an_end_ends_with_codes_that_fit():
    net, room, look = trained(1.5, Ends(16), data=DataLoader(Endless(), None), epochs=-1)
    assert inf not in look.slopes
    assert size_of(look.codes[-1]) > room
    assert size_of(codes_of(net)) <= room
