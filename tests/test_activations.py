"""Memory of activations: counted by hand, on networks, and at most what TFLite-Micro takes."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.core.activations import Step, Steps, chained, in_place, peak_values, without
from lightning_compress.core.costs.activation_bytes import ActivationBytes
from lightning_compress.core.errors import CompressError
from lightning_compress.export.integer.lower import lower
from lightning_compress.pipeline.planners.knapsack import Knapsack
from lightning_compress.quantization.placements.layer_inputs import LayerInputs
from lightning_compress.quantization.placements.tensors import Tensors
from lightning_compress.surgery import measure
from lightning_compress.vision.models.mlperf_tiny import TinyResNet8
from lightning_compress.vision.models.resnet_cifar import resnet8, resnet20

SUM = (
    Step("", (), (("", 4),)),
    Step("a", (0,), (("a", 2),)),
    Step("b", (1,), (("b", 2),)),
    Step("", (1, 2), (("a", 2),)),
    Step("", (3,)),
)


def test_a_sum_keeps_its_first_input_alive():
    assert peak_values(SUM, {"a": 5, "b": 5}) == 30  # a, b and their sum
    assert peak_values(SUM, {"a": 1, "b": 9}) == 22  # they are equal in networks; here to tell them apart


def test_an_activation_function_works_in_place_unless_its_input_is_read_later():
    tail = (Step("relu", (1,), (("a", 2),), pointwise=True), Step("", (2,)))
    assert len(in_place((*SUM[:2], *tail))) == 3
    assert len(in_place((*SUM[:2], tail[0], Step("", (1, 2), (("a", 2),)), Step("", (3,))))) == 5


def test_what_reads_a_removed_layer_reads_its_input():
    steps = (*SUM[:3], Step("pool", (2,), (("b", 1),)), Step("", (3,)))
    assert without(steps, {"b"}) == (*SUM[:2], Step("pool", (1,), (("a", 1),)), Step("", (2,)))


def test_a_chain_in_place_of_a_layer_has_activations_of_its_own():
    found = chained(SUM, "b", [("b.0", 2), ("b.1", 2)])
    assert peak_values(found, {"a": 5, "b.0": 7, "b.1": 5}) == 34  # a, the first factor's, the second's


@st.composite
def programs(draw) -> Steps:
    count = draw(st.integers(1, 8))
    steps = [Step("", (), (("", 1),))]
    for i in range(1, count + 1):
        inputs = draw(st.lists(st.integers(0, i - 1), min_size=1, max_size=3, unique=True))
        steps.append(Step(f"m{i}", tuple(inputs), ((f"m{i}", draw(st.integers(1, 5))),)))
    return (*steps, Step("", (count,)))


def by_moments(steps: Sequence[Step], widths: dict[str, int]) -> int:
    """At each step what was written until then and is read at it or later."""

    def size(step: Step) -> int:
        return sum(count * widths.get(name, 1) for name, count in step.values)

    def alive(i: int) -> list[Step]:
        return [s for j, s in enumerate(steps[: i + 1]) if j == i or any(j in later.inputs for later in steps[i:])]

    return max(sum(map(size, alive(i))) for i in range(len(steps)))


@given(programs(), st.data())
def test_the_peak_is_the_most_of_all_moments_and_never_rises_with_fewer_channels(steps, data):
    names = [step.module for step in steps if step.module]
    widths = {name: data.draw(st.integers(1, 9)) for name in names}
    narrower = {name: data.draw(st.integers(1, width)) for name, width in widths.items()}
    assert peak_values(steps, widths) == by_moments(steps, widths)
    assert peak_values(steps, narrower) <= peak_values(steps, widths)


class Mixed(nn.Module):
    """Two branches that are joined, poolings, and an activation function whose input is read again."""

    def __init__(self):
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(8, 4, 3, padding=1)
        self.fc = nn.Linear(18, 5)

    def forward(self, x):
        x = self.stem(x)
        y = nn.functional.relu(x)
        y = torch.cat([self.left(y), self.right(y), nn.functional.max_pool2d(x, 3, 1, 1)], 1)
        return self.fc(nn.functional.adaptive_avg_pool2d(y, 1).flatten(1))


@pytest.mark.parametrize("make", [resnet8, resnet20, TinyResNet8, Mixed])
def test_the_profile_gives_what_the_graph_of_the_export_gives(make):
    net, example = make().eval(), torch.randn(2, 3, 32, 32)
    assert ActivationBytes()(measure.measure(net, example)) == lower(net, example, integer=False).peak_bytes()


@pytest.mark.parametrize("placement", [Tensors(), LayerInputs()])
def test_quantizers_take_no_memory_and_values_one_byte(placement):
    net, example = resnet8().eval(), torch.randn(2, 3, 16, 16)
    dense = measure.measure(net, example)
    plan = {layer.name: {"weight_bits": 4, "act_bits": 8} for layer in dense.weighted}
    quantized = copy.deepcopy(net)
    callback = QuantizationAwareTraining(plan, placement=placement)
    callback.apply(quantized, example)
    quantized(example)
    widths = {name: layer.out_channels for name, layer in dense.layers.items()}
    assert peak_values(measure.measure(quantized.eval(), example).steps, widths) == 3 * 16 * 16 * 16
    assert ActivationBytes()(dense) == 4 * 3 * 16 * 16 * 16
    assert ActivationBytes()(callback.predict(callback.plan, dense)) == 3 * 16 * 16 * 16
    assert ActivationBytes(integer=True)(dense) == 3 * 16 * 16 * 16


def test_a_closed_form_for_sums_refuses_it():
    with pytest.raises(CompressError, match="Knapsack needs one cost that is a sum over layers, and activation_bytes"):
        Knapsack(cost=ActivationBytes(), budget=0.5).check("quantize")
