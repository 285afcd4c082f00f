"""Files name classes by their kind: unique in a family, found without an import, the same wherever the class is."""

from __future__ import annotations

import inspect
import pkgutil
import subprocess
import sys
from importlib import import_module

import pytest
import torch

import lightning_compress as lc
from lightning_compress.callbacks.base.callback import CompressionCallback
from lightning_compress.callbacks.base.teacher import DistillationCallback
from lightning_compress.callbacks.layer_removal import LayerRemoval
from lightning_compress.callbacks.low_rank import LowRank
from lightning_compress.callbacks.quantization import QuantizationAwareTraining
from lightning_compress.callbacks.weight_pruning import WeightPruning
from lightning_compress.core.costs.macs import MACs
from lightning_compress.core.errors import CompressError
from lightning_compress.core.kinds import HasKind, class_of, snake_case
from lightning_compress.core.settings import settings_of
from lightning_compress.pruning.initializers.inherit import Inherit
from lightning_compress.pruning.schedules.one_shot import OneShot
from lightning_compress.quantization.coders.coder import Coder
from lightning_compress.quantization.coders.range_coded import RangeCoded
from lightning_compress.quantization.quantizers.lsq import LSQ
from lightning_compress.quantization.quantizers.lsq_activation import LSQActivation
from lightning_compress.search.journal import Journal
from lightning_compress.surgery.graph.blocks import Removed
from lightning_compress.surgery.low_rank.svd import SVD
from lightning_compress.surgery.mask import Mask
from lightning_compress.surgery.replacement import Replacement
from lightning_compress.surgery.structure import load_structure, save_structure, structure_of
from lightning_compress.surgery.transforms import Transform
from lightning_compress.testing.toys import ToyNet

IN_FILES = (Transform, Replacement, Coder, CompressionCallback, DistillationCallback)
MOVED = (LSQ, LSQActivation, Mask, SVD, Removed, RangeCoded, LayerRemoval, LowRank, WeightPruning, MACs,
         QuantizationAwareTraining)  # fmt: skip


EXAMPLE = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Animal(HasKind):
    """A family."""


class SmallDog(Animal):
    """A member with the default kind."""


def compressed() -> ToyNet:
    """Return a network with transforms, replacements and a mask."""
    torch.manual_seed(0)
    net, example = ToyNet(), EXAMPLE
    for callback in (
        LayerRemoval({"conv1": {"keep": 0}}, initialize=Inherit()),
        LowRank({"fc": {"rank_out": 0.5}}),
        WeightPruning({"conv2": {"density": 0.5}}, schedule=OneShot()),
        QuantizationAwareTraining({"conv2": {"weight_bits": 4, "act_bits": 8}}),
    ):
        callback.apply(net, example)
    net.eval()(example)
    return net


@pytest.fixture
def moved(monkeypatch):
    """Call it, and the classes are in other modules."""

    def move():
        for cls in MOVED:
            monkeypatch.setattr(cls, "__module__", f"elsewhere.{cls.__module__}")

    return move


def test_the_default_is_the_name_in_snake_case():
    assert SmallDog.kind == "small_dog"
    assert class_of("small_dog", Animal) is SmallDog
    names = {
        "LSQActivation": "lsq_activation",
        "NOfM": "n_of_m",
        "Tucker2": "tucker2",
        "L1": "l1",
        "BNScale": "bn_scale",
    }
    assert {name: snake_case(name) for name in names} == names


def test_two_classes_of_one_kind_are_an_error():
    with pytest.raises(CompressError, match=r"kind 'small_dog' is already that of test_kinds\.SmallDog"):
        type("Other", (Animal,), {"kind": "small_dog"})
    assert class_of("small_dog", Animal) is SmallDog


def test_the_same_class_again_takes_the_place_of_the_old_one(monkeypatch):
    monkeypatch.setitem(Animal.classes_by_kind, "small_dog", SmallDog)  # which is put back for the other tests
    again = type("SmallDog", (Animal,), {"__module__": __name__, "__qualname__": "SmallDog"})
    assert class_of("small_dog", Animal) is again


def test_an_unknown_kind_is_named_with_a_hint():
    with pytest.raises(CompressError, match=r"the animal 'smal_dog' is not known here; did you mean 'small_dog'\?; "):
        class_of("smal_dog", Animal)
    with pytest.raises(CompressError, match="transform 'l2' is not known here"):  # it is, in another family
        class_of("l2", Transform)
    with pytest.raises(CompressError, match="not known here"):
        class_of("lsq", Replacement)


def test_what_files_name_declares_its_kind():
    for module in pkgutil.walk_packages(lc.__path__, "lightning_compress."):
        import_module(module.name)
    for family in IN_FILES:
        for cls in family.classes_by_kind.values():
            source = inspect.getsource(cls) if cls.__module__.startswith("lightning_compress.") else ""
            described = getattr(cls, "config", None) is not Transform.config
            if source.startswith("@final") and described:
                assert f'    kind: ClassVar[str] = "{cls.kind}"' in source, cls


def test_a_packed_file_outlives_a_move(tmp_path, moved):
    net = compressed()
    file = lc.save(net, tmp_path / "net.safetensors", coder=RangeCoded())
    moved()
    loaded, x = lc.load(file, ToyNet()), EXAMPLE
    torch.testing.assert_close(loaded(x), net(x), rtol=1e-4, atol=1e-4)
    assert structure_of(loaded).applied == structure_of(net).applied


def test_a_checkpoint_outlives_a_move(tmp_path, moved):
    net, checkpoint = compressed(), {}
    save_structure(net, checkpoint)
    torch.save({"state_dict": net.state_dict(), **checkpoint}, tmp_path / "a.ckpt")
    moved()
    read = torch.load(tmp_path / "a.ckpt", weights_only=True)
    loaded, x = ToyNet().eval(), EXAMPLE
    load_structure(loaded, read)
    loaded.load_state_dict(read["state_dict"])
    assert torch.equal(loaded.eval()(x), net(x))


def test_a_journal_outlives_a_move(tmp_path, moved):
    def settings():
        return settings_of({"cost": MACs(), "callbacks": [QuantizationAwareTraining()], "make": LSQ})

    with Journal(tmp_path / "journal.sqlite", settings()):
        pass
    moved()
    with Journal(tmp_path / "journal.sqlite", settings()) as journal:
        assert list(journal) == []


def test_a_file_is_read_by_a_program_that_imported_none_of_its_classes(tmp_path):
    net = compressed()
    file = lc.save(net, tmp_path / "net.safetensors", coder=RangeCoded())
    code = f"""
import lightning_compress as lc
from lightning_compress.testing.toys import ToyNet
net = lc.load({str(file)!r}, ToyNet())
print([type(module).__name__ for name, module in net.named_modules() if name in ("fc", "conv1")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert sorted(eval(done.stdout)) == ["Removed", "SVD"]


def test_files_of_another_format_are_refused_in_a_sentence(tmp_path):
    checkpoint = {}
    save_structure(compressed(), checkpoint)
    checkpoint["lightning_compress"]["format"] = 1
    with pytest.raises(
        CompressError, match=r"checkpoint: it has format 1, and this version reads \d+; use the version"
    ):
        load_structure(ToyNet(), checkpoint)
    with Journal(tmp_path / "journal.sqlite", {}) as journal:
        journal._db.execute("DELETE FROM meta WHERE key = 'format'")
    with pytest.raises(CompressError, match=r"has format 1, and this version reads \d+; go on with the version"):
        Journal(tmp_path / "journal.sqlite", {})


def test_classes_inside_functions_may_have_any_name():
    class SmallDog(Animal):
        """Not importable, so no file can name it."""

    assert SmallDog.kind == f"{__name__}.{SmallDog.__qualname__}"
    assert class_of("small_dog", Animal) is not SmallDog
