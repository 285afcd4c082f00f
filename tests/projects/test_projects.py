"""Small re-creations of projects that people have, none written for compression: each goes through the contract."""

from __future__ import annotations

import images
import pytest
import sequences
from contract import is_searched, trains_saves_loads_and_resumes

PROJECTS = images.PROJECTS | sequences.PROJECTS
NEEDS = {"timm": "timm", "smp_unet": "segmentation_models_pytorch", "vit": "transformers", "bert": "transformers",
         "lora": "peft"}  # fmt: skip
ALL = pytest.mark.parametrize("name", PROJECTS)


@ALL
def test_it_is_trained_with_all_callbacks_saved_loaded_and_resumed(name, tmp_path):
    pytest.importorskip(NEEDS.get(name, "torch"))
    trains_saves_loads_and_resumes(PROJECTS[name], tmp_path)


@ALL
def test_it_is_searched(name, tmp_path):
    pytest.importorskip(NEEDS.get(name, "torch"))
    is_searched(PROJECTS[name], tmp_path)
