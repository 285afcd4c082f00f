"""Layers of a network with what can be done to them, and plans of equal numbers that are accepted at once."""

from __future__ import annotations

import copy

import pytest
import torch
from test_layer_removal import NETS
from test_reasons import IMAGES, OptionA, Parts, Rolls
from torch import nn

import lightning_compress as lc
from lightning_compress.callbacks.base.composition import Composition
from lightning_compress.core.errors import NoEffectError
from lightning_compress.pipeline.layers import METHODS
from lightning_compress.surgery.structure import structure_of
from lightning_compress.testing.toys import PlainModule, ToyNet

EXAMPLE = torch.zeros(2, 1, 8, 8)
ALL = {
    **{name: made for name, made in NETS.items() if name != "resnet56"},
    "option_a": (OptionA, (2, 3, 8, 8)),
    "parts": (Parts, (2, 3, 8, 8)),
}
NUMBERS = {"channels": 0.5, "rank_out": 0.5, "density": 0.5, "weight_bits": 4, "act_bits": 8}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("knobs", [*([knob] for knob in NUMBERS), ["channels", "weight_bits"]], ids="+".join)
def test_a_uniform_plan_is_accepted_at_the_first_try(name, knobs):
    make, shape = ALL[name]
    net, example = make().eval(), torch.zeros(shape)
    numbers = {knob: NUMBERS[knob] for knob in knobs}
    if "channels" in knobs and name in ("option_a", "parts"):
        with pytest.raises(NoEffectError, match=r"no layer of .* can have 'channels'; inspect_layers says"):
            lc.uniform_plan(net, example, **numbers)
        return
    plan = lc.uniform_plan(net, example, **numbers)
    assert plan.knobs == set(knobs)
    composition = Composition([m() for m in METHODS if set(m.knobs) & plan.knobs], net, example)
    if name in ("toy", "chain", "parts"):  # applied for real where that is quick
        changed = copy.deepcopy(net)
        composition.apply(changed, plan)
        assert structure_of(changed).plan == composition.resolve(plan)
    else:
        assert composition.resolve(plan).layers


def test_globs_come_after_numbers_and_the_last_wins():
    patterns = {"conv*": {"weight_bits": 2}, "conv1": {"weight_bits": 3, "act_bits": 8}}
    plan = lc.uniform_plan(ToyNet(), EXAMPLE, patterns, weight_bits=4)
    assert plan.knob("weight_bits") == {"stem.0": 4, "conv1": 3, "conv2": 2, "fc": 4} | {
        name: 4 for name in plan.knob("weight_bits") if name not in ("stem.0", "conv1", "conv2", "fc")
    }
    assert plan.knob("act_bits") == {"conv1": 8}


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"weight_bit": 4}, lc.CompressError, "understands the knob 'weight_bit'; did you mean 'weight_bits'"),
        ({"weight_bits": 40}, lc.CompressError, "40"),
        ({"patterns": {"convx": {"channels": 0.5}}}, lc.CompressError, "the pattern 'convx' matches no layer"),
    ],
)
def test_what_cannot_be_planned_is_told(given, error, words):
    with pytest.raises(error, match=words):
        lc.uniform_plan(ToyNet(), EXAMPLE, **given)


def test_without_numbers_nothing_is_planned():
    assert lc.uniform_plan(ToyNet(), EXAMPLE) == lc.Plan({})


def test_every_layer_has_its_knobs_and_ranges_couplings_and_reasons():
    table = {layer.name: layer for layer in lc.inspect_layers(ToyNet(), EXAMPLE)}
    assert table["conv1"].knobs["weight_bits"] == (2, 3, 4, 5, 6, 7, 8)
    assert table["conv1"].knobs["keep"] == (0, 1)
    assert table["conv1"].knobs["channels"][-1] == 1
    assert "channels" not in table["fc"].knobs
    assert table["fc"].kept["ChannelPruning"] == "its output channels are the output of the network"
    assert table["fc"].weights == ToyNet().fc.weight.numel()
    roots = {layer.root for layer in table.values() if layer.root}
    for name in roots:
        assert all(table[follower].root == name for follower in table[name].coupled if follower in table)


@pytest.mark.parametrize("net", [OptionA(), Parts(), Rolls(), ToyNet()], ids=lambda net: type(net).__name__)
def test_each_layer_has_a_choice_or_a_leader_or_a_reason_of_every_callback(net):
    example = EXAMPLE if isinstance(net, ToyNet) else IMAGES
    for layer in lc.inspect_layers(net, example):
        for method in METHODS[1:]:  # parts of what can be removed have no reason of their own
            assert (
                method.knobs & layer.knobs.keys()
                or method.__name__ in layer.kept
                or (method is lc.ChannelPruning and layer.root)
            )


@pytest.mark.parametrize("method", [*METHODS, lc.VariationalDropout, lc.LogNormalDropout, lc.JointSparsityQuantization])
def test_all_callbacks_answer_the_same_question(method):
    kept = method().kept_whole(PlainModule(), EXAMPLE)
    assert all(reason[0].islower() and not reason.endswith(".") for reason in kept.values())


def test_what_is_ignored_is_said_to_be():
    for method in (lc.QuantizationAwareTraining, lc.WeightPruning, lc.LowRank, lc.ChannelPruning, lc.LayerRemoval):
        assert method(ignore=["conv1"]).kept_whole(ToyNet(), EXAMPLE)["conv1"] == "it is ignored"


def test_it_prints_as_a_table_and_reads_in_a_notebook():
    table = lc.inspect_layers(ToyNet(), EXAMPLE)
    for text in (str(table), table._repr_html_()):
        assert "weight_bits 2 to 8" in text
        assert "keep 0/1" in text
        assert "conv1" in text
    assert "<td>Conv2d</td>" in table._repr_html_()


def test_the_example_is_the_module_s_own_where_it_has_one():
    module = PlainModule()
    module.example_input_array = EXAMPLE
    assert [layer.name for layer in lc.inspect_layers(module)] == [
        layer.name for layer in lc.inspect_layers(module, EXAMPLE)
    ]
    with pytest.raises(lc.CompressError, match=r"Sequential is no LightningModule .* pass example="):
        lc.inspect_layers(nn.Sequential(nn.Linear(2, 2)))
