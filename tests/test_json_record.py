"""JSON files of a run: what was written comes back, and anything else is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_compress.core.errors import CompressError
from lightning_compress.core.json_record import read_record, write_record

DATA = {"accuracy": 0.98, "layers": ["conv1", "fc"], "limit": None, "figures": {"bytes": 36948}}


def test_what_was_written_comes_back_and_nothing_else_is_left(tmp_path):
    write_record(tmp_path / "a.json", DATA)
    assert read_record(tmp_path / "a.json") == DATA
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_flipped_bit_is_refused_or_changes_no_value(tmp_path_factory, data):
    file = tmp_path_factory.mktemp("record") / "a.json"
    write_record(file, DATA)
    raw = bytearray(file.read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(raw)
    try:
        assert read_record(file) == DATA
    except CompressError as error:
        sentence = str(error)
    else:
        return
    assert "a.json' is damaged" in sentence
    assert "run the same command again" in sentence


@pytest.mark.parametrize("text", ["", "{", "[]", '{"accuracy": 1}'])
def test_what_is_no_record_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(CompressError, match="is damaged"):
        read_record(tmp_path / "a.json")
