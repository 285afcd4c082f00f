"""Journals that were damaged, that another program made or holds, and that the disk has no room for."""

from __future__ import annotations

import os
import random
import resource
import sqlite3
from contextlib import closing

import pytest
from test_journal import SCORE, Counting, run

from lightning_compress.core.errors import CompressError
from lightning_compress.search.journal import Entry, Journal, read


def damaged(path, statement):
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(statement)


@pytest.mark.parametrize(("statement", "what"), [
    ("UPDATE trials SET score = '{\"metrics\"' WHERE number = 1", "JSONDecodeError"),
    ("UPDATE trials SET score = '{\"metrics\": {}}' WHERE number = 1", "KeyError: 'costs'"),
    ("UPDATE trials SET score = '[1]' WHERE number = 1", "TypeError"),
    ("UPDATE trials SET score = NULL WHERE number = 1", "neither"),
    ("UPDATE trials SET failure = 'why' WHERE number = 1", "both a score and a failure"),
    ("UPDATE trials SET score = '{\"metrics\": {\"a\": NaN}, \"costs\": {}, \"before\": {}}' "
     "WHERE number = 1", "not finite"),
    ("UPDATE trials SET indices = '7' WHERE number = 1", "TypeError"),
    ("UPDATE trials SET indices = '[0.5]' WHERE number = 1", "of another type"),
    ("UPDATE trials SET seconds = 'long' WHERE number = 1", "TypeError"),
    ("UPDATE trials SET seconds = seconds + 1 WHERE number = 1", "not those that were written"),
    ("UPDATE trials SET key = 'another' WHERE number = 1", "not those that were written"),
    ("UPDATE trials SET digest = '' WHERE number = 1", "not those that were written"),
])  # fmt: skip
def test_a_damaged_row_is_named_and_its_remedy_works(statement, what, tmp_path):
    whole = run(tmp_path / "j", 4)
    damaged(tmp_path / "j", statement)
    with pytest.raises(CompressError, match=r"trial 1 in .* is damaged") as caught:
        run(tmp_path / "j", 4)
    assert what in str(caught.value)
    damaged(tmp_path / "j", str(caught.value).split('"')[-2])
    evaluate = Counting()
    assert run(tmp_path / "j", 4, evaluate) == whole
    assert len(evaluate.calls) <= 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE meta SET value = '{' WHERE key = 'fingerprint'",
        "UPDATE meta SET value = '7' WHERE key = 'fingerprint'",
        "UPDATE meta SET value = '{\"seed\": 7}' WHERE key = 'fingerprint'",
        "DELETE FROM meta WHERE key = 'fingerprint'",
    ],
)
def test_a_damaged_fingerprint_is_named(statement, tmp_path):
    run(tmp_path / "j", 2)
    damaged(tmp_path / "j", statement)
    with pytest.raises(CompressError, match=r"is no journal of a search: its fingerprint is .*Move it away"):
        run(tmp_path / "j", 2)


def test_a_damaged_file_is_refused(tmp_path):
    run(tmp_path / "j", 60)
    content = (tmp_path / "j").read_bytes()
    (tmp_path / "j").write_bytes(content[:100] + b"x" * (len(content) - 100))
    with pytest.raises(CompressError, match=r"cannot be used \(.*\): it is damaged or no journal .*: move it away"):
        run(tmp_path / "j", 60)
    with pytest.raises(CompressError, match="move it away"):
        read(tmp_path / "j")


def test_no_flipped_bit_is_read_as_another_trial(tmp_path):
    run(tmp_path / "whole", 40)
    whole, content, rng = read(tmp_path / "whole"), (tmp_path / "whole").read_bytes(), random.Random(0)
    refused = 0
    for at in rng.sample(range(8 * len(content)), 300):
        broken = bytearray(content)
        broken[at // 8] ^= 1 << (at % 8)
        (tmp_path / "j").write_bytes(broken)
        try:
            with Journal(tmp_path / "j", {"seed": 0}) as journal:
                assert list(journal) == whole
        except CompressError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("table", ["meta (a, b)", "songs (title)"])
def test_a_foreign_database_is_refused_and_left_as_it_is(table, tmp_path):
    damaged(tmp_path / "j", f"CREATE TABLE {table}")
    before = (tmp_path / "j").read_bytes()
    with pytest.raises(CompressError, match=f"a database with the tables .'{table.split()[0]}'.. Move it away"):
        Journal(tmp_path / "j", {})
    assert (tmp_path / "j").read_bytes() == before


def test_tables_of_our_names_with_other_columns_are_refused(tmp_path):
    for table in ("meta (a, b)", "trials (a, b)"):
        damaged(tmp_path / "j", f"CREATE TABLE {table}")
    with pytest.raises(CompressError, match=r"no such column: key.*: it is damaged or no journal"):
        Journal(tmp_path / "j", {})


def told_on_a_full_disk(report, most, act):
    """Return the sentence of a child that may write no file beyond some bytes, which to SQLite is a disk that fails."""
    if not (child := os.fork()):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
            act()
        except CompressError as error:
            report.write_text(str(error))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return report.read_text()


def test_a_full_disk_is_a_sentence_and_loses_nothing(tmp_path):
    whole = run(tmp_path / "whole", 400)
    told = told_on_a_full_disk(tmp_path / "report", 100_000, lambda: run(tmp_path / "j", 400))
    assert "make room on the disk and give the same command again" in told
    written = read(tmp_path / "j")
    assert 10 < len(written) < 400
    assert run(tmp_path / "j", 400) == whole
    assert read(tmp_path / "j")[: len(written)] == written


def test_a_file_that_another_program_holds_is_named_so(tmp_path):
    run(tmp_path / "j", 2)
    with Journal(tmp_path / "j", {"seed": 0}) as journal, closing(sqlite3.connect(tmp_path / "j")) as other:
        other.execute("BEGIN IMMEDIATE")
        journal._db.execute("PRAGMA busy_timeout = 1")
        with pytest.raises(CompressError, match=r"trial 2 could not be written .* close the program that has it open"):
            journal.append(Entry(2, (), "k", SCORE, None, 0.0))


def test_a_disk_that_is_full_from_the_start_is_named_so(tmp_path):
    told = told_on_a_full_disk(tmp_path / "report", 1000, lambda: Journal(tmp_path / "j", {}))
    assert "make room on the disk" in told
    assert len(run(tmp_path / "j", 2).plan.layers) == 4


def test_what_cannot_be_written_leaves_what_was(tmp_path):
    with Journal(tmp_path / "j", {}) as journal:
        journal.append(Entry(0, (), "k", SCORE, None, 0.0))
        journal._db.execute("PRAGMA max_page_count = 1")
        with pytest.raises(CompressError, match=r"trial 1 could not be written .*full"):
            journal.append(Entry(1, (0,) * 100_000, "k", SCORE, None, 0.0))
    assert len(read(tmp_path / "j")) == 1
