"""Every code block of README and docs runs, and every command composes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

import lightning_compress.conf  # noqa: F401  makes the resolvers known
from lightning_compress.app import cli
from lightning_compress.core.profile import Profile
from lightning_compress.export.header import Description
from lightning_compress.testing.toys import FullData, FullModule, ToyNet

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)


def blocks(page: Path, language: str) -> list[str]:
    return [text for found, text in BLOCK.findall(page.read_text()) if found == language]


def commands(page: Path) -> list[str]:
    found = [*blocks(page, "bash"), *blocks(page, "text")]
    lines = [line for block in found for line in block.replace("\\\n", " ").splitlines()]
    ours = [line for line in lines if re.match(r"(python train\.py|lightning-compress run) ", line)]
    return [line for line in ours if "--config-dir" not in line]  # tests/test_own_modules.py has those


PYTHON = [page for page in PAGES if blocks(page, "python")]
COMMANDS = [(page, command) for page in PAGES for command in commands(page)]


@pytest.mark.parametrize("page", PYTHON, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_python_blocks_of_a_page_run_in_turn(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict = {}
    own = re.search(r"^module = ", page.read_text(), re.M)
    for block in blocks(page, "python"):
        if own is None:  # what a page calls yours: a trained module, its data, an input batch, the class of its network
            names |= {"module": FullModule(), "data": FullData(), "example": torch.zeros(2, 1, 8, 8), "MyNet": ToyNet}
            names["images"] = torch.rand(8, 1, 8, 8)
        exec(compile(block, str(page), "exec"), names)


def first_of_each(override: str) -> str:
    """Return one value of a multirun's override."""
    key, _, value = override.partition("=")
    return override if value.startswith(("[", "{")) else f"{key}={value.split(',')[0]}"


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=lambda value: value.name if isinstance(value, Path) else "")
def test_a_command_composes(page, command):
    words = shlex.split(command.split("  #")[0])[2:]
    overrides = [first_of_each(word) if "-m" in words else word for word in words if word != "-m"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", overrides)
    assert cfg.compress is not None or cfg.recipe is not None


NAMED = re.compile(r"`lightning-compress ([a-z]+)|^lightning-compress ([a-z]+)(?= [A-Z+]|$)", re.M)


def test_commands_that_are_named_exist():
    sources = (file for file in (ROOT / "lightning_compress").rglob("*") if file.suffix in {".py", ".yaml", ".j2"})
    named = {"".join(words): file for file in (*PAGES, *sources) for words in NAMED.findall(file.read_text())}
    assert {"run", "report", "export"} <= set(named)
    assert not {word: file for word, file in named.items() if word not in cli.COMMANDS}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_results_and_scripts_that_are_named_exist(page):
    text = page.read_text()
    results = {Path(name).name for name in re.findall(r"`([\w/]+\.txt)`", text)}
    assert not {name for name in results if not (ROOT / "benchmarks" / "results" / name).is_file()}
    scripts = set(re.findall(r"\b(?:benchmarks|tests)/[\w/]+\.py\b", text))
    assert not {name for name in scripts if not (ROOT / name).is_file()}


RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.txt"))


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.name)
def test_results_say_by_which_command_they_were_made(file):
    assert re.search(r"\bpython (benchmarks/[\w/]+|train)\.py\b", file.read_text())


def test_the_readme_has_at_most_100_lines():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 100


def test_the_packed_format_has_the_fields_that_headers_have():
    filled = {"coder": "other", "replaced": {"a": {"kind": "b"}}, "quantizers": [{}], "numbers": {"a": 1}}
    header = Description(Profile({}), {}, {}, {}, **filled, shapes={"a": [1]}).to_dict()
    table = (ROOT / "docs/concepts/packed_format.md").read_text().partition("## Header")[2]
    told = [name for line in re.findall(r"^\| (`.*?) \|", table, re.M) for name in re.findall(r"`(\w+)`", line)]
    assert sorted(told) == sorted(header)
