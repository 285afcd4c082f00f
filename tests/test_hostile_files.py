"""Hostile packed files: whatever is changed in one, with its checksum made again or not, it is refused or it is whole.

Each of the mutations is either refused with :class:`PackedFileError`, or gives a network whose values are finite.
"""

from __future__ import annotations

import copy
import json
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lightning_compress as lc
from lightning_compress.callbacks.layer_removal import LayerRemoval
from lightning_compress.callbacks.low_rank import LowRank
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.callbacks.weight_pruning import WeightPruning
from lightning_compress.core.errors import PackedFileError
from lightning_compress.core.plan import Plan
from lightning_compress.export import container
from lightning_compress.export.header import Description
from lightning_compress.export.load import receive
from lightning_compress.quantization.coders.range_coded import RangeCoded
from lightning_compress.quantization.quantizers.codebook import Codebook

MUTATIONS = 10_000
VALUES = [
    None, True, False, 0, 1, -1, 2, 3, 7, 8, 9, 31, 32, 33, 255, 256, 1 << 31, 1 << 40, 1 << 53, -(1 << 40), 0.5, -0.5,
    1e308, 1e-308, "", "conv1", "../x", "1/2", "1/0", "9e99", "conv", "norm", "table", "os.system", "mask", [], [[]],
    [0], [1 << 40], {}, {"kind": "mask", "shape": [1 << 20]}, {"kind": "codebook"},
    {"kind": "fixed_grid", "zero": 1e300},
]  # fmt: skip


class Net(nn.Module):
    """Has every kind of layer that a file knows: ``(batch, 1, 6, 6) -> (batch, 3)``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.same = nn.Conv2d(4, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 8, 3, padding=1, groups=2)
        self.bn2 = nn.BatchNorm2d(8)
        self.conv3 = nn.Conv2d(8, 8, 1)
        self.scale, self.position = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(1, 8, 6, 6))
        self.register_buffer("table", torch.arange(8.0))
        self.fc = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.same(torch.relu(self.bn1(self.conv1(x)))))
        x = torch.relu(self.conv3(torch.relu(self.bn2(self.conv2(x))))) + self.position
        return self.fc((x.mean((2, 3)) + self.table) * self.scale)


def compressed() -> Net:
    """Return a network with all that a file can hold: a grid, codebook, mask, low rank, and a removed layer."""
    torch.manual_seed(0)
    net, x = Net(), torch.randn(8, 1, 6, 6)
    LayerRemoval({"same": {"keep": 0}}).apply(net, x)
    LowRank({"conv3": {"rank_out": 0.4}}).apply(net, x)
    WeightPruning({"conv2": {"density": 0.5}, "fc": {"density": 0.6}}).apply(net, x)
    QuantizationAwareTraining({"conv1": {"weight_bits": 3, "act_bits": 8}, "conv2": {"weight_bits": 4}}).apply(net, x)
    with torch.no_grad():
        net.eval()(x)
    return net


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return what files of two coders hold: tensors and description."""
    folder, net = tmp_path_factory.mktemp("files"), compressed()
    paths = [lc.save(net, folder / "fixed"), lc.save(net, folder / "range", coder=RangeCoded())]
    return [(path, *container.read(path)) for path in paths]


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Return the paths to all values inside."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in inside for place in places(one, (*path, key)))]


def change(contents: Any, rng: random.Random) -> None:
    """Change one place of a description."""
    *above, last = rng.choice(places(contents)[1:])
    parent = contents
    for key in above:
        parent = parent[key]
    kind = rng.randrange(5)
    if kind == 0:
        del parent[last]
    elif kind == 1 and isinstance(parent, list):
        parent.insert(last, copy.deepcopy(rng.choice([*parent, *VALUES])))
    elif kind == 2 and isinstance(parent, dict):
        parent[f"{last}x"] = parent[last]
    elif kind == 3 and type(parent[last]) is int:
        parent[last] += rng.choice([-1, 1])
    else:
        parent[last] = copy.deepcopy(rng.choice(VALUES))


def change_tensors(tensors: dict[str, torch.Tensor], rng: random.Random) -> None:
    """Change one tensor, or which there are."""
    name = rng.choice(list(tensors))
    value = tensors[name].clone()
    kind = rng.randrange(8)
    if kind == 0:
        del tensors[name]
    elif kind == 1:
        tensors[rng.choice(["x", "fc.weight", "bn1.running_var", "table"])] = value
    elif kind == 2:
        tensors[name] = torch.cat([value.flatten(), value.flatten()[: rng.choice([1, 4, 100])]])
    elif kind == 3:
        tensors[name] = value.flatten()[: -rng.choice([1, 4])]
    elif kind == 4:
        tensors[name] = value.to(rng.choice([torch.float64, torch.bfloat16, torch.int32, torch.uint8, torch.bool]))
    elif kind == 5:
        tensors[name] = value[None]
    elif not value.numel() or value.dtype == torch.bool:
        tensors[name] = ~value.bool()
    elif value.is_floating_point():
        value.view(-1)[rng.randrange(value.numel())] = rng.choice([float("nan"), float("inf"), 3e38, -3e38, 0.0, -1.0])
        tensors[name] = value
    else:
        value.view(-1)[rng.randrange(value.numel())] ^= 1 << rng.randrange(7)
        tensors[name] = value


def signed(tensors: dict[str, torch.Tensor], contents: Any, rng: random.Random) -> tuple[dict, Any]:
    """Return a mutation whose checksum is right: of the description, or of the tensors."""
    tensors, contents = dict(tensors), copy.deepcopy(contents)
    for _ in range(rng.choice([1, 1, 2, 3])):
        if rng.random() < 0.7:
            change(contents, rng)
        else:
            change_tensors(tensors, rng)
    return tensors, contents


def is_refused_or_whole(path, give: Callable[[nn.Module], None]) -> bool:
    """Return whether a file is refused; one that is not gives finite values."""
    net = Net()
    try:
        give(net)
    except PackedFileError:
        return True
    state = [value for value in net.state_dict().values() if value.is_floating_point()]
    weights = [module.weight for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    assert all(value.isfinite().all() for value in (*state, *weights))
    return False


def test_signed_mutations_are_refused_or_whole(files):
    rng, refused = random.Random(0), 0
    for _ in range(MUTATIONS // 2):
        path, tensors, contents = rng.choice(files)
        tensors, contents = signed(tensors, contents, rng)

        def give(net, path=path, tensors=tensors, contents=contents):
            with container.refusing(path):
                receive(path, net, tensors, Description.from_dict(contents))

        refused += is_refused_or_whole(path, give)
    assert MUTATIONS // 4 < refused < MUTATIONS // 2  # some change what may change


def test_unsigned_mutations_are_refused_or_whole(files, tmp_path):
    rng, refused, broken = random.Random(1), 0, tmp_path / "broken"
    for _ in range(MUTATIONS // 2):
        path, _, _ = rng.choice(files)
        content = bytearray(path.read_bytes())
        for _ in range(rng.choice([1, 1, 4])):
            at = rng.randrange(len(content))
            kind = rng.randrange(4)
            if kind == 0:
                del content[at : at + rng.randrange(1, 50)]
            elif kind == 1:
                content[at:at] = rng.randbytes(rng.randrange(1, 50))
            else:
                content[at] ^= 1 << rng.randrange(8)
            content = content or bytearray(1)
        broken.write_bytes(content)
        refused += is_refused_or_whole(broken, lambda net: lc.load(broken, net))
    assert refused > MUTATIONS // 2 * 0.9


def test_mutations_of_the_container_with_a_right_checksum_are_refused_or_whole(files, tmp_path):
    """The header of safetensors is changed as text."""
    rng, broken = random.Random(2), tmp_path / "broken"
    for _ in range(300):
        path, _, _ = rng.choice(files)
        content = path.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        change(header, rng)
        text = json.dumps(header).encode()
        broken.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
        is_refused_or_whole(broken, lambda net: lc.load(broken, net))


BOMBS = """
import resource, sys
sys.path.insert(0, {tests!r})
import torch
from test_hostile_files import Net, container, lc, PackedFileError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tensors, contents = container.read(container.Path({path!r}))
def width(key, value):
    layers = {{**contents["layers"], key: [value for _ in contents["names"]]}}
    return {{**contents, "layers": layers}}
bombs = [
    {{**contents, "names": "0" * (1 << 28)}}, width("out_channels", 1 << 40), width("codebook", 1 << 40),
    width("weight_scales", 1 << 40), width("kernel", [1 << 20, 1 << 20]), width("weight_bits", 1 << 40),
    {{**contents, "kinds": [{{"kind": "mask", "shape": [1 << 31]}}]}},
    {{**contents, "kinds": [{{"kind": "lsq_activation", "shape": [1 << 31]}}]}},
    {{**contents, "replaced": {{"tucker2": {{"names": ["conv2"], "rank_in": [1 << 20], "rank_out": [1 << 20]}}}}}},
    {{**contents, "replaced": {{"svd": {{"names": ["fc"], "rank_out": [1 << 31]}}}}}},
    {{**contents, "applied": {{"low_rank": {{"knobs": {{"rank_in": ["1e999999999"]}}, "others": ["a"]}}}}}},
]
for bomb in bombs:
    container.write(container.Path({path!r} + ".bomb"), tensors, bomb)
    try:
        lc.load({path!r} + ".bomb", Net())
    except PackedFileError:
        continue
    raise AssertionError(str(bomb)[:200])
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
assert grown < (3 << 28) // 1024 + 100_000, grown  # to write the first bomb takes three copies of its text
"""


def test_bombs_take_no_more_memory_than_it_takes_to_make_them(files):
    code = BOMBS.format(tests=str(Path(__file__).parent), path=str(files[0][0]))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_codebook_whose_codes_point_beyond_its_values_is_refused(tmp_path):
    net, x = Net(), torch.randn(8, 1, 6, 6)
    QuantizationAwareTraining(Plan({"fc": {"weight_bits": 2}}), weight_quantizer=Codebook).apply(net, x)
    path = lc.save(net.eval(), tmp_path / "a", example_input=x)
    tensors, contents = container.read(path)
    column = contents["layers"]["codebook"]
    contents["layers"]["codebook"] = [min(size, 3) for size in column]
    container.write(tmp_path / "b", tensors, contents)
    with pytest.raises(PackedFileError):
        lc.load(tmp_path / "b", Net())
