"""Runs side by side: every figure of every run, and a sentence where a run is missing."""

from __future__ import annotations

import json
import sys

import pytest

from lightning_compress.app import cli
from lightning_compress.app.report import compare
from lightning_compress.core.json_record import read_record, write_record
from lightning_compress.pipeline.figures import Figure, declare, to_dicts

FIGURES = {
    "bytes": 1000, "weight_bits": 8000, "macs": 500, "parameters": 250, "activation_bytes": 4096, "onnx_int8_ms": 0.5,
}  # fmt: skip


FOUND = {
    "searcher": "DDPG",
    "objective": "AccuracyUnderBudget",
    "trials": 12,
    "failed": 2,
    "best": {"this search": 0.98765, "random": 0.97, "uniform": 0.96},
}


def write(folder, accuracy, dense=None, found=None, metric="test_acc"):
    folder.mkdir(parents=True)
    dense, small = {**FIGURES, "accuracy": 0.99, **(dense or {})}, {**FIGURES, "bytes": 100, "accuracy": accuracy}
    figures = to_dicts([*declare(metric, []), Figure("onnx_int8_ms", "latency in int8", "ms", 3, measured=True)])
    run = {
        "figures": figures, "dense": dense, "compressed": small, "seconds": 12.3, "searches": found or {},
        "metric": metric, "test_samples": 100,
    }  # fmt: skip
    write_record(folder / "result.json", run)


def table(*folders):
    """Label -> name of the column -> cell."""
    (_, *head), *rows = compare.columns({n: compare.read_run(f) for n, f in compare.names(folders).items()})
    return {label: dict(zip(head, cells, strict=True)) for label, *cells in rows}


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["lightning-compress", "report", *map(str, arguments)])
    cli.main()


def test_what_is_no_accuracy_is_not_shown_as_one(tmp_path):
    write(tmp_path / "a", 0.0123, metric="test_mse")
    assert table(tmp_path / "a")["test_mse"] == {"dense": "0.99", "a": "0.0123"}


def test_two_runs_and_the_dense_network(tmp_path, monkeypatch, capsys):
    write(tmp_path / "a", 0.98)
    write(tmp_path / "b<i>", 0.97)
    run(monkeypatch, tmp_path / "a", tmp_path / "b<i>", "--html", tmp_path / "page.html")
    printed = capsys.readouterr().out
    for text in ("dense", "99.00", "98.00", "97.00", "1,000", "100", "12"):
        assert text in printed
    page = (tmp_path / "page.html").read_text()
    assert '<td data-name="a">98.00</td>' in page
    assert "b&lt;i&gt;" in page
    assert "<i>" not in page


def test_a_folder_without_a_run_and_a_damaged_one_are_named(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="holds no finished run"):
        run(monkeypatch, tmp_path)
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(SystemExit, match="is damaged"):
        run(monkeypatch, tmp_path)


def test_runs_of_the_same_name_are_told_apart_by_the_shortest_paths(tmp_path):
    for name, accuracy in (("a/0", 0.98), ("b/0", 0.5), ("b/1", 0.6)):
        write(tmp_path / name, accuracy)
    found = table(tmp_path / "a/0", tmp_path / "b/0", tmp_path / "b/1", tmp_path / "b/../a/0")
    expected = {"dense": "99.00", "a/0": "98.00", "b/0": "50.00", "b/1": "60.00"}
    assert found["test accuracy, %"] == expected
    assert list(compare.names([tmp_path / "a", tmp_path / "b"])) == ["a", "b"]
    assert list(compare.names([tmp_path, tmp_path / "b"])) == [tmp_path.name, "b"]


def test_dense_networks_that_differ_each_have_a_column_and_their_latencies_always_differ(tmp_path):
    write(tmp_path / "a", 0.98, {"onnx_int8_ms": 1.0})
    write(tmp_path / "b", 0.97, {"onnx_int8_ms": 2.0})
    write(tmp_path / "c", 0.96, {"bytes": 5000})
    assert list(table(tmp_path / "a", tmp_path / "b")["file on disk, bytes"]) == ["dense", "a", "b"]
    found = table(tmp_path / "a", tmp_path / "c")
    assert found["file on disk, bytes"] == {"dense of a": "1,000", "a": "100", "dense of c": "5,000", "c": "100"}
    assert found["seconds"] == {"dense of a": "", "a": "12", "dense of c": "", "c": "12"}


def test_searches_stand_side_by_side_with_their_baselines(tmp_path):
    write(tmp_path / "a", 0.98, found={"prune": FOUND, "quantize": FOUND})
    write(tmp_path / "b", 0.97, found={"quantize": {**FOUND, "searcher": "Greedy", "best": {"this search": 0.9}}})
    write(tmp_path / "c", 0.97)
    found = table(tmp_path / "a", tmp_path / "b", tmp_path / "c")
    blank = {"dense": "", "c": ""}
    assert found["quantize: searcher"] == {**blank, "a": "DDPG", "b": "Greedy"}
    assert found["quantize: best of this search"] == {**blank, "a": "0.9877", "b": "0.9000"}
    assert found["quantize: best of random"] == {**blank, "a": "0.9700", "b": ""}
    assert found["quantize: failed"] == {**blank, "a": "2", "b": "2"}
    assert found["prune: trials"] == {**blank, "a": "12", "b": ""}


def test_folders_may_be_named_as_markup_is(tmp_path, monkeypatch, capsys):
    for name in ("q[red]", "y[/b]"):
        write(tmp_path / name, 0.98, found={"prune": {**FOUND, "best": {"[red]mine": 0.5}}})
    monkeypatch.chdir(tmp_path)
    run(monkeypatch, "q[red]", "y[/b]")
    printed = capsys.readouterr().out
    for text in ("q[red]", "b]", "prune: best of [red]mine"):
        assert text in printed


REST = '"compressed": {}, "seconds": 1, "searches": {}, "test_samples": 3'


@pytest.mark.parametrize(("text", "words"), [
    ("{}", r"it has no \['figures', 'dense', 'compressed', 'seconds', 'searches', 'test_samples'\]"),
    ('{"dense": {}, "compressed": {}, "seconds": 1, "searches": {}}', "of an earlier version .it has no .'figures'"),
    ("[]", "it holds list"),
    (f'{{"dense": {{}}, {REST}, "figures": [{{"name": "bytes", "label": "file"}}]}}', "'dense' has no"),
    (f'{{"dense": 3, {REST}, "figures": [{{"name": "bytes", "label": "file"}}]}}', "'dense' has no"),
    (f'{{"dense": {{}}, {REST}, "figures": [{{"width": 3}}]}}', "figures: .*width"),
])  # fmt: skip
def test_a_result_that_lacks_something_is_a_sentence(tmp_path, monkeypatch, text, words):
    if text.startswith("{"):
        write_record(tmp_path / "result.json", json.loads(text))
    else:
        (tmp_path / "result.json").write_text(text)
    with pytest.raises(SystemExit, match=f"is damaged.*{words}.*run that command again"):
        run(monkeypatch, tmp_path)


def test_what_lies_in_the_folder_of_another_run_s_stage_does_not_count(tmp_path):
    write(tmp_path / "a", 0.98)
    (tmp_path / "a/prune").mkdir()
    write_record(tmp_path / "a/prune/search.json", {"found": FOUND})
    assert not [label for label in table(tmp_path / "a") if label.startswith("prune")]


def test_a_page_that_cannot_be_written_is_a_sentence(tmp_path, monkeypatch):
    write(tmp_path / "a", 0.98)
    with pytest.raises(SystemExit, match="cannot write"):
        run(monkeypatch, tmp_path / "a", "--html", tmp_path / "missing" / "page.html")


def test_a_figure_that_only_one_run_has_stands_in_one_row(tmp_path):
    write(tmp_path / "a", 0.98)
    write(tmp_path / "b", 0.97)
    file = tmp_path / "b/result.json"
    run = read_record(file)
    run["figures"].append({"name": "energy", "label": "energy", "unit": "mJ", "digits": 2})
    run["dense"]["energy"], run["compressed"]["energy"] = 4.0, 0.25
    write_record(file, run)
    assert table(tmp_path / "a", tmp_path / "b")["energy, mJ"] == {"dense": "4", "a": "", "b": "0.25"}


def test_many_runs_are_split_where_the_terminal_is_narrow(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    folders = [tmp_path / f"compress-drl_quant+budget-0.1+model.net.width-8+seed-{i}" for i in range(6)]
    for i, folder in enumerate(folders):
        write(folder, 0.9 + i / 100, {"bytes": 123_456_789})
    run(monkeypatch, *folders)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    for i in range(6):
        assert f" {90 + i:.2f} " in printed
    assert printed.count("123,456,789") == printed.count("test accuracy") > 1  # the dense network is in each part


def test_a_table_that_fits_is_whole():
    rows = [("", "dense", "a", "b"), ("file", "1,000", "100", "200")]
    assert compare.parts(rows, 80) == [rows]
    assert compare.parts(rows, 40) == [[row[:3] for row in rows], [(*row[:2], row[3]) for row in rows]]
