"""Test what sets the grids of activations, several batches and calls, none that says nothing; and what widens them."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from lightning import LightningModule, Trainer
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_compress.conf
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.quantization.quantizers.activation import CALLS, ActivationQuantizer
from lightning_compress.quantization.quantizers.lsq_activation import LSQActivation
from lightning_compress.testing.toys import QUIET

FILES = sorted((Path(lightning_compress.conf.__file__).parent / "compress" / "quantizer").glob("*.yaml"))


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def make(request):
    maker = instantiate(OmegaConf.load(request.param))
    if not issubclass(getattr(maker, "func", maker), ActivationQuantizer):
        pytest.skip("of weights")
    return maker


def relative(a: Tensor, b: Tensor) -> float:
    return float(((a - b).norm() / b.norm()).detach())


@pytest.mark.parametrize("silent", [torch.zeros(4, 3), torch.zeros(0, 3)])
def test_tensors_that_say_nothing_do_not_count(make, silent):
    torch.manual_seed(0)
    x, quantizer, other = torch.randn(50, 3), make(8), make(8)
    assert torch.equal(quantizer(silent), silent)
    assert not quantizer.calibrated
    quantizer.eval()(x)
    other.eval()(x)
    assert torch.equal(quantizer(x), other(x))


def test_the_first_calls_count_whatever_their_order(make):
    torch.manual_seed(0)
    parts = [torch.randn(40, 3).relu(), 3 * torch.randn(40, 3), torch.zeros(5, 3), torch.rand(40, 3)]
    one, other = make(8).eval(), make(8).eval()
    for part in parts:
        one(part)
    for part in reversed(parts):
        other(part)
    assert torch.equal(one.packed(), other.packed())
    assert max(relative(one(part), part) for part in parts if part.any()) < 0.1


def test_the_grid_stays_after_the_first_calls(make):
    torch.manual_seed(0)
    quantizer, x = make(4).eval(), torch.randn(100, 3)
    for _ in range(CALLS):
        quantizer(x)
    before = quantizer.packed()
    quantizer(1.5 * torch.randn(100, 3))
    assert torch.equal(quantizer.packed(), before)
    assert quantizer.widened == 0


@pytest.mark.parametrize("later", [torch.linspace(-1, 1, 99), torch.linspace(0, 500, 99)])
def test_what_contradicts_the_grid_widens_it(make, later):
    quantizer = make(8).eval()
    for _ in range(CALLS):
        quantizer(torch.linspace(0, 1, 99))
    assert relative(quantizer(later), later) < 0.02
    assert quantizer.widened == 1
    quantizer.settle()
    before = quantizer.packed()
    quantizer(100 * later)
    assert torch.equal(quantizer.packed(), before)


@pytest.mark.parametrize("column", [0, 7])
def test_no_layout_of_a_table_is_special(column):
    torch.manual_seed(0)
    x = 50 * torch.randn(16384, 16)
    x[:, column] = (x[:, column] > 0).float()
    found = []
    for part in (x, x[:16000], x.t().contiguous(), x.flatten()[torch.randperm(x.numel())]):
        quantizer = LSQActivation(8).eval()
        quantizer(part)
        found.append(float(quantizer.number))
    assert max(found) <= 1.1 * min(found)


class Module(LightningModule):
    """A network on images; ``lr`` of SGD."""

    def __init__(self, net: nn.Module, lr: float = 0.01) -> None:
        super().__init__()
        self.net, self.lr = net, lr

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.lr)


def fit(module: Module, x: Tensor, plan: dict, epochs: int = 1, batch: int = 8) -> list[str]:
    """Train on images in this order; the warnings of this package."""
    y = torch.arange(len(x)) % 4
    trainer = Trainer(max_epochs=epochs, callbacks=[QuantizationAwareTraining(plan)], **QUIET)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(module, DataLoader(TensorDataset(x, y), batch))
    return [str(w.message) for w in caught if str(w.message).startswith("quantization")]


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(288, 4)
    )


def test_a_training_calibrates_on_several_batches_and_leaves_no_trace():
    x, module = torch.rand(32, 3, 8, 8), Module(small(), lr=0.0)
    x[:8] = 0
    norm = module.net[1]
    norm.momentum = 0.0  # so that training itself leaves none
    before = copy.deepcopy(norm)
    assert fit(module, x, {"0": {"act_bits": 8}, "5": {"act_bits": 8}}, epochs=1) == []
    assert torch.equal(norm.running_mean, before.running_mean)
    assert torch.equal(norm.running_var, before.running_var)
    assert int(norm.num_batches_tracked) == 4  # those of the epoch alone
    assert relative(module.net[0].input_transform(x), x) < 0.01
    assert module.net[5].input_transform.calibrated


def test_a_later_batch_that_the_grid_does_not_fit_is_reported_once():
    x = torch.rand(8 * 102, 3, 8, 8)
    x[-16:] *= 300
    said = fit(Module(small(), lr=0.0), x, {"0": {"act_bits": 8}}, epochs=2)
    assert len(said) == 1
    assert "layer '0'" in said[0]


class TwoCalls(nn.Module):
    """A layer that sees ReLU's output first and signed values then."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.head((self.shared(F.relu(x)) + self.shared(x)).mean((2, 3)))


@pytest.mark.parametrize("epochs", [0, 1])
def test_all_calls_of_a_shared_layer_count(epochs):
    torch.manual_seed(0)
    x, module = torch.randn(32, 3, 8, 8), Module(TwoCalls(), lr=1e-3)
    fit(module, x, {"shared": {"act_bits": 8}}, epochs)
    with torch.no_grad():
        signed = module.net.first(x)
        assert relative(module.net.shared.input_transform(signed), signed) < 0.05


@pytest.mark.parametrize("way", ["validate", "test", "predict"])
def test_what_is_measured_without_a_training_is_the_network_that_is_left(way):
    class Measured(Module):
        def validation_step(self, batch, batch_idx):
            self.log("loss", F.cross_entropy(self.net(batch[0]), batch[1]))

        test_step = validation_step

        def predict_step(self, batch, batch_idx):
            return self.net(batch[0])

    torch.manual_seed(0)
    x, module = torch.randn(64, 3, 8, 8) * torch.logspace(-1, 1, 64)[:, None, None, None], Measured(small())
    data = DataLoader(TensorDataset(x, torch.arange(64) % 4), 4)
    plan = {name: {"act_bits": 3} for name in ("0", "5")}
    trainer = Trainer(callbacks=[QuantizationAwareTraining(plan)], **QUIET)
    first, second = ([getattr(trainer, way)(module, data), trainer.callback_metrics] for _ in range(2))
    assert torch.equal(torch.cat(first[0]), torch.cat(second[0])) if way == "predict" else first == second
