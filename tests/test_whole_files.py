"""A file that is written in place of another is the old one or the new one, and nothing stays beside it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from lightning_compress.core.atomic_write import atomic_write, remove_stale_parts


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


KILLED = (
    "import os, signal, sys; from pathlib import Path\n"
    "from lightning_compress.core.atomic_write import atomic_write\n"
    "with atomic_write(Path(sys.argv[1])) as part:\n"
    "    part.write_text('ne')\n"
    "    os.kill(os.getpid(), signal.SIGKILL)\n"
)


def killed(file):
    assert subprocess.run([sys.executable, "-c", KILLED, file]).returncode == -signal.SIGKILL


def test_what_killed_writers_left_is_removed_and_what_others_write_is_not(tmp_path):
    (tmp_path / "inside").mkdir()
    others = [tmp_path / name for name in (".a.elsewhere.1.0.part", ".user.part", "x.part", ".a.b.part")]
    for other in others:
        other.write_text("")
    for name in ("final.ckpt", "inside/other.v1.json"):
        killed(tmp_path / name)
    with atomic_write(tmp_path / "alive") as part:
        part.write_text("")
        assert len(list(tmp_path.rglob(".*.part"))) == 6
        remove_stale_parts(tmp_path)
        assert {*tmp_path.rglob("*.part"), *tmp_path.rglob(".*.part")} == {*others, part}


def test_killed_in_the_middle_it_leaves_the_old_content_and_the_next_writer_its_own(file):
    killed(file)
    assert file.read_text() == "old"
    with atomic_write(file) as part:
        part.write_text("new")
    assert file.read_text() == "new"
    assert os.listdir(file.parent) == [file.name]


def test_writers_of_one_file_do_not_meet(file):
    with atomic_write(file) as one, atomic_write(file) as two:
        one.write_text("one")
        two.write_text("two")
    assert file.read_text() == "one"  # the last to end
    assert os.listdir(file.parent) == [file.name]
