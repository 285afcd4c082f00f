"""Structure of a checkpoint on a network that has some of it already, as the stage before left it."""

from __future__ import annotations

import copy
from itertools import combinations

import pytest
from torch import nn

from lightning_compress.core.errors import CompressError
from lightning_compress.quantization.quantizers.lsq import LSQ
from lightning_compress.quantization.quantizers.lsq_activation import LSQActivation
from lightning_compress.surgery import transform_specs, transforms
from lightning_compress.surgery.mask import Mask


def whole() -> nn.Module:
    """Return a layer with three weight transforms and one of its input."""
    net = nn.Sequential(nn.Conv2d(2, 4, 3))
    transforms.attach_weight(net[0], Mask([4, 2, 3, 3]))
    transforms.attach_weight(net[0], LSQ(3, [4, 1, 1, 1]), first=True)
    transforms.attach_weight(net[0], LSQ(5, [4, 1, 1, 1]))
    transforms.attach_input(net[0], LSQActivation(4, []))
    return net


SPECS = transform_specs.describe(whole())["0"]["weight"]


@pytest.mark.parametrize("kept", [c for n in range(4) for c in combinations(range(3), n)], ids=str)
@pytest.mark.parametrize("with_input", [False, True])
def test_what_is_missing_is_attached_at_its_place_and_what_is_there_stays(kept, with_input):
    net = nn.Sequential(nn.Conv2d(2, 4, 3))
    for index in kept:
        transforms.attach_weight(net[0], transforms.Transform.build(SPECS[index]))
    if with_input:
        transforms.attach_input(net[0], LSQActivation(4, []))
    before = transforms.weight_transforms(net[0])
    transform_specs.rebuild(net, transform_specs.describe(whole()))
    after = transforms.weight_transforms(net[0])
    assert transform_specs.describe(net) == transform_specs.describe(whole())
    assert [after[index] for index in kept] == before
    net.load_state_dict(whole().state_dict())
    assert transform_specs.describe(copy.deepcopy(net)) == transform_specs.describe(whole())


@pytest.mark.parametrize("specs", [[SPECS[2], SPECS[0]], [{**SPECS[0], "bits": 7}], [*SPECS, SPECS[0]]])
def test_other_transforms_are_refused(specs):
    net = nn.Sequential(nn.Conv2d(2, 4, 3))
    for spec in specs:
        transforms.attach_weight(net[0], transforms.Transform.build(spec))
    with pytest.raises(CompressError, match=r"layer '0' was saved with .* belongs to another plan"):
        transform_specs.rebuild(net, transform_specs.describe(whole()))
