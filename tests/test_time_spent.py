"""The time that a run took: the parts of killed processes count, and what only reads a finished run does not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lightning_compress.core.json_record import write_record
from lightning_compress.pipeline import time_spent
from lightning_compress.pipeline.time_spent import FILE, timed


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(time_spent, "time", lambda: now[0])
    return now


def written(file: Path, moment: float) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text("")
    os.utime(file, (moment, moment))


def test_parts_add_up_and_a_killed_one_counts_to_its_last_file(tmp_path, clock):
    with timed(tmp_path):
        clock[0] += 30
    write_record(tmp_path / FILE, {"spent": 30.0, "since": 2000.0})  # a process began at 2000, and was killed
    os.utime(tmp_path / FILE, (2000, 2000))
    written(tmp_path / "stage" / "last.ckpt", 2050)
    os.utime(tmp_path / "stage", (2000, 2000))
    clock[0] = 9000
    with timed(tmp_path) as seconds:
        clock[0] += 7
        assert seconds() == 30 + 50 + 7


@pytest.mark.parametrize(("trained_at", "expected"), [(1040, 40), (5003, 45)])
def test_a_finished_run_keeps_its_time_unless_something_is_trained_again(tmp_path, clock, trained_at, expected):
    with timed(tmp_path) as seconds:
        clock[0] += 40
        assert seconds() == 40
    written(tmp_path / "result.json", 1041)
    clock[0] = 5000
    with timed(tmp_path) as seconds:
        written(tmp_path / "stage" / "final.ckpt", trained_at)
        clock[0] += 5
        assert seconds() == expected


def test_a_damaged_file_is_no_reason_to_end_a_run(tmp_path, clock):
    (tmp_path / FILE).write_text("{")
    with timed(tmp_path) as seconds:
        clock[0] += 2
        assert seconds() == 2
