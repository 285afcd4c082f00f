"""A file that is written in place of another is the old one or the new one, and nothing stays beside it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from lightning_compress.core.atomic_write import atomic_write


@pytest.fixture
def file(tmp_path):
    found = tmp_path / "final.ckpt"
    found.write_text("old")
    return found


def test_the_new_content_takes_the_place_of_the_old(file):
    with atomic_write(file) as part:
        part.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert os.listdir(file.parent) == [file.name]


def test_after_an_error_the_old_content_is_there(file):
    def interrupted() -> None:
        with atomic_write(file) as part:
            part.write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert file.read_text() == "old"
    assert os.listdir(file.parent) == [file.name]


def test_killed_in_the_middle_it_leaves_the_old_content_and_the_next_writer_its_own(file):
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from lightning_compress.core.atomic_write import atomic_write\n"
        "with atomic_write(Path(sys.argv[1])) as part:\n"
        "    part.write_text('ne')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, file]).returncode == -signal.SIGKILL
    assert file.read_text() == "old"
    with atomic_write(file) as part:
        part.write_text("new")
    assert file.read_text() == "new"
    assert os.listdir(file.parent) == [file.name]


def test_writers_of_one_file_do_not_meet(file):
    with atomic_write(file, ".1") as one, atomic_write(file, ".2") as two:
        one.write_text("one")
        two.write_text("two")
    assert file.read_text() == "one"  # the last to end
    assert os.listdir(file.parent) == [file.name]
