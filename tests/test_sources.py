"""The digest of sources: it changes with the code that a configuration names or imports, and with nothing else."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_compress.app.sources import sources_digest

CONFIG = {"model": {"_target_": "mine.Net", "part": [{"_target_": "torch.nn.Linear", "_partial_": True}]}}
FILES = {
    "mine.py": "from own_package import blocks\nfrom settings import WIDTH\nclass Net(blocks.Block): ...\n",
    "settings.py": "WIDTH = 8\n",
    "own_package/__init__.py": "",
    "own_package/blocks.py": "class Block:\n    def f(self):\n        from .inner import late\n",
    "own_package/inner.py": "def late(): return 1\n",
    "other.py": "x = 1\n",
}
EDITS = [
    ("mine.py", "class Net(blocks.Block): ...", "class Net(blocks.Block): x = 1", True),
    ("settings.py", "8", "16", True),
    ("own_package/blocks.py", "def f", "def g", True),
    ("own_package/inner.py", "1", "2", True),
    ("settings.py", "8", "8  # channels", False),
    ("other.py", "1", "2", False),
]


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    known = {name.removesuffix(".py").split("/")[0] for name in FILES}
    for name in [name for name in sys.modules if name.partition(".")[0] in known]:
        monkeypatch.delitem(sys.modules, name)
    importlib.invalidate_caches()
    return tmp_path


@pytest.mark.parametrize(("file", "old", "new", "differs"), EDITS)
def test_an_edit_of_what_is_named_or_imported_changes_the_digest(project, file, old, new, differs):
    before = sources_digest(CONFIG)
    edited = project / file
    edited.write_text(edited.read_text().replace(old, new))
    assert (sources_digest(CONFIG) != before) == differs


def test_the_digest_is_the_same_in_another_process(project):
    here = sources_digest(CONFIG)
    code = f"from lightning_compress.app.sources import sources_digest\nprint(sources_digest({CONFIG!r}))"
    path = [str(project), str(Path(__file__).parent.parent)]
    line = [sys.executable, "-c", f"import sys; sys.path[:0] = {path}\n{code}"]
    assert subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip() == here


def test_networks_of_the_application_count_and_installed_packages_do_not():
    ours = {"_target_": "lightning_compress.vision.models.resnet_cifar.resnet8"}
    none = sources_digest({})
    assert sources_digest({"_target_": "torchvision.models.resnet18"}) == none
    assert sources_digest({"_target_": "lightning_compress.callbacks.quantization.QuantizationAwareTraining"}) == none
    assert sources_digest(ours) != none
