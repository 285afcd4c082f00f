"""Find what goes into a network by running the module, whatever its batches are and whatever it does with them."""

from __future__ import annotations

import copy
from collections import UserDict
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

import lightning_compress as lc
from lightning_compress.export.compared import outputs_of
from lightning_compress.export.integer.lower import lower
from lightning_compress.pruning.criteria.gram import Gram
from lightning_compress.pruning.reconstruction.asymmetric import Asymmetric
from lightning_compress.surgery import measure
from lightning_compress.surgery.inputs import as_example, example_of, network_inputs, small
from lightning_compress.surgery.structure import network
from lightning_compress.surgery.tensors import tensors_in
from lightning_compress.testing.toys import QUIET, PlainModule, ToyNet


class Sums(nn.Module):
    """A network of two inputs, the second by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor, scale: float = 1.0, *, other: Tensor) -> Tensor:
        return self.c((self.a(x) + scale * self.b(other)).relu())


@dataclass
class Sample:
    """A batch that is a dataclass."""

    target: Tensor
    image: Tensor


class Spectrogram(PlainModule):
    """Makes an image of a wave in its forward."""

    example_input_array = torch.zeros(2, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.view(-1, 1, 8, 8).square())

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0].flatten(1)), batch[1])


class Resizes(PlainModule):
    """Halves images in its step, in training mode alone."""

    def training_step(self, batch, batch_idx):
        self.log("train_size", float(batch[0].shape[-1]))
        x = batch[0][..., ::2, ::2] if self.training else batch[0]
        return F.cross_entropy(self.model(x), batch[1])


class Indexed(PlainModule):
    """Its batches begin with an index."""

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[1]), batch[2])


class Classes(PlainModule):
    """Its batches are dataclasses."""

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.forward(batch.image), batch.target)


class TwoInputs(PlainModule):
    """Its network takes two tensors out of a dict, one by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Sums()

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.model(batch["x"], other=batch["y"]), batch["label"])


class Manual(PlainModule):
    """Optimizes by hand, with two optimizers."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        first, second = self.optimizers()
        self.toggle_optimizer(first)
        loss = F.cross_entropy(self(batch[0]), batch[1])
        first.zero_grad()
        self.manual_backward(loss)
        first.step()
        self.untoggle_optimizer(first)
        second.zero_grad()

    def configure_optimizers(self):
        return [torch.optim.SGD(self.model.fc.parameters(), 0.1), torch.optim.SGD(self.model.conv1.parameters(), 0.1)]


def rows(make, count: int = 16) -> list:
    generator = torch.Generator().manual_seed(0)
    return [make(i, lambda *shape: torch.randn(*shape, generator=generator)) for i in range(count)]


def together(samples: list[Sample]) -> Sample:
    return Sample(torch.tensor([s.target for s in samples]), torch.stack([s.image for s in samples]))


CASES = {  # kind of module -> how its samples are made, the shapes that the network gets
    Spectrogram: (lambda i, randn: (randn(1, 8, 8), i % 4), [(1, 8, 8)]),
    Resizes: (lambda i, randn: (randn(1, 16, 16), i % 4), [(1, 8, 8)]),
    Indexed: (lambda i, randn: (i, randn(1, 8, 8), i % 4), [(1, 8, 8)]),
    Classes: (lambda i, randn: Sample(i % 4, randn(1, 8, 8)), [(1, 8, 8)]),
    TwoInputs: (lambda i, randn: {"label": i % 4, "x": randn(4), "y": randn(4)}, [(4,), (4,)]),
    Manual: (lambda i, randn: (randn(1, 8, 8), i % 4), [(1, 8, 8)]),
}
ALL = pytest.mark.parametrize("kind", CASES)


def loader(kind: type[PlainModule]) -> DataLoader:
    return DataLoader(rows(CASES[kind][0]), 8, collate_fn=together if kind is Classes else None)


@ALL
def test_the_network_gets_what_the_step_makes_of_a_batch(kind):
    module = kind()
    example = example_of(module, loader(kind))
    assert [tuple(t.shape) for t in tensors_in(example)] == [(2, *shape) for shape in CASES[kind][1]]
    assert [measure.samples_in(each) for each in network_inputs(module, loader(kind))] == [8, 8]
    assert measure.measure(network(module), example).macs > 0


@ALL
def test_finding_it_leaves_the_module_as_it_was(kind):
    module = kind()
    module.model.eval()
    batches = list(loader(kind))
    state, kept, numbers = copy.deepcopy(module.state_dict()), set(module.__dict__), torch.get_rng_state()
    example_of(module, batches)
    torch.testing.assert_close(module.state_dict(), state, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), numbers)
    assert set(module.__dict__) == kept
    assert module.training
    assert not module.model.training
    assert all(parameter.requires_grad for parameter in module.parameters())


@ALL
@pytest.mark.parametrize("settings", [{}, {"criterion": Gram()}, {"refit": Asymmetric()}])
def test_every_module_is_pruned_without_an_edit(kind, settings):
    layer = "a" if kind is TwoInputs else "conv1"
    callback = lc.ChannelPruning({layer: {"channels": 0.5}}, **settings)
    module = kind()
    Trainer(max_steps=2, limit_val_batches=0, callbacks=[callback], **QUIET).fit(module, loader(kind))
    assert len(module.model.get_submodule(layer).weight) < len(kind().model.get_submodule(layer).weight)


class NoStep(PlainModule):
    """Calls no network that could be seen."""

    def training_step(self, batch, batch_idx):
        return self.model.fc.weight.sum()

    validation_step = test_step = predict_step = training_step


def test_what_the_network_does_not_take_is_told_with_the_remedy():
    module, batches = NoStep(), DataLoader([(i, i) for i in range(4)], 2)
    with pytest.raises(lc.CompressError, match=r"NoStep: its network does not run on .*; set example_input_array"):
        Trainer(max_steps=1, callbacks=[lc.ChannelPruning({"conv1": {"channels": 0.5}})], **QUIET).fit(module, batches)


class Silent(nn.Module):
    """Takes six channels, and says nothing to an input of three."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 4, 3)

    def forward(self, x):
        if x.shape[1] != 6:
            raise AssertionError
        return self.conv(x)


def around(net):
    module = PlainModule()
    module.model = net
    return module


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(lambda net, x: example_of(around(net), [(x, x)]), id="example of a module"),
        pytest.param(measure.measure, id="profile"),
        pytest.param(outputs_of, id="parity of an export"),
        pytest.param(lower, id="graph of an export"),
    ],
)
def test_an_error_that_says_nothing_is_told_by_its_kind(run):
    with pytest.raises(lc.CompressError, match="AssertionError"):
        run(Silent(), torch.zeros(2, 3, 8, 8))


def test_without_a_tensor_the_example_is_asked_for():
    with pytest.raises(lc.CompressError, match="no example input was found for NoStep: set its example_input_array"):
        example_of(NoStep(), [["a", "b"]])


X, Y = torch.zeros(4, 2), torch.zeros(4, 3)


@pytest.mark.parametrize(
    ("args", "kwargs", "expected"),
    [
        ((X,), {}, X),
        ((X, Y), {}, (X, Y)),
        ((), {"x": X, "other": Y}, {"x": X, "other": Y}),
        ((X,), {"other": Y}, {"x": X, "other": Y}),
        (([X, Y],), {}, ([X, Y],)),
    ],
)
def test_any_call_is_an_example(args, kwargs, expected):
    found = as_example(Sums(), args, kwargs)
    assert type(found) is type(expected)
    assert found is expected or list(found) == list(expected)


def test_a_call_that_cannot_be_repeated_is_told():
    class Positional(nn.Module):
        def forward(self, x, /, *, y):
            return x + y

    with pytest.raises(lc.CompressError, match="Positional is called with arguments by position and by keyword"):
        as_example(Positional(), (X,), {"y": Y})


def test_only_tensors_of_samples_are_cut():
    cut = small((torch.zeros(8, 3), torch.zeros(5, 5), torch.tensor(1.0), "text"))
    assert [getattr(part, "shape", part) for part in cut] == [(2, 3), (5, 5), (), "text"]


@dataclass(frozen=True)
class Frozen:
    x: Tensor
    more: tuple[Tensor, ...] = ()


class Pair(NamedTuple):
    x: Tensor
    name: str


BOXES = {
    "tensor": lambda x: x,
    "list": lambda x: [x, 1],
    "named tuple": lambda x: (Pair(x, "a"),),
    "dict": lambda x: {"y": {"x": x}},
    "UserDict": lambda x: UserDict(x=x, name="a"),
    "dataclass": lambda x: Sample(x, x),
    "frozen dataclass": lambda x: Frozen(x, (x,)),
    "dataclass in a list": lambda x: [Frozen(x)],
}


class Boxed(nn.Module):
    """Takes its input out of a container, and puts its output into one."""

    def __init__(self, box) -> None:
        super().__init__()
        self.a, self.b, self.c, self.box = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 3), box

    def forward(self, *args, **kwargs):
        return self.box(self.c(self.b(self.a(tensors_in((args, kwargs))[0]).relu()).relu()))


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_a_container_of_inputs_and_outputs_changes_nothing(box):
    torch.manual_seed(0)
    plain, boxed, x = Boxed(BOXES["tensor"]), Boxed(box), torch.randn(5, 1, 8, 8)
    boxed.load_state_dict(plain.state_dict())
    profile = measure.measure(boxed, box(x))
    assert profile == measure.measure(plain, x)
    assert profile.macs == 36 * 9 * 8 + 16 * 9 * 64 + 4 * 9 * 32
    assert profile.steps[-1].inputs == measure.measure(plain, x).steps[-1].inputs
    assert [len(each) for each in tensors_in(small(box(x)))] == [2] * len(tensors_in(box(x)))
    assert type(small(box(x))) is type(box(x))
    assert "output of the network" in lc.ChannelPruning().kept_whole(boxed, box(x))["c"]
    for net, example in ((plain, x), (boxed, box(x))):
        lc.ChannelPruning({"a": {"channels": 0.5}}).apply(net, example)
    torch.testing.assert_close(tensors_in(boxed(x))[0], plain(x))


def test_a_compiled_network_is_seen_too():
    module = PlainModule()
    module.model = torch.compile(ToyNet(), backend="eager")
    assert example_of(module, [(torch.zeros(8, 1, 8, 8), torch.zeros(8).long())]).shape == (2, 1, 8, 8)
