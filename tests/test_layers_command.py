"""``lightning-compress layers``."""

from __future__ import annotations

import sys

import pytest

from lightning_compress.app import cli


def layers(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning-compress", "layers", *arguments])
    cli.main()


def test_every_layer_is_printed_with_the_knobs_of_all_callbacks(monkeypatch, capsys):
    layers(monkeypatch, "model.net.width=4")
    said = capsys.readouterr().out
    for text in ("conv1", "layer3.0.conv2", "fc", "channels", "density", "weight_bits", "act_bits", "keep"):
        assert text in said


def test_a_method_prints_the_knobs_of_its_stages(monkeypatch, capsys):
    layers(monkeypatch, "+compress=drl_prune", "model.net.width=4")
    said = capsys.readouterr().out
    assert "stage prune:" in said
    assert "channels" in said
    assert "weight_bits" not in said


def test_options_of_the_user_are_found(monkeypatch, capsys, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text(
        "# @package _global_\n"
        "model:\n"
        "  _target_: lightning_compress.vision.models.classifier.ImageClassifier\n"
        "  net: {_target_: lightning_compress.vision.models.resnet_cifar.resnet8, in_channels: 1, width: 4}\n"
        "  num_classes: 10\n"
    )
    layers(monkeypatch, "--config-dir", str(tmp_path), "model=mine", "+compress=prune")
    assert "layer3.0.conv2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("model=nowhere", "error: configuration: "),
        ("modle=resnet8", "error: configuration: "),
    ],
)
def test_bad_input_ends_with_a_sentence(monkeypatch, argument, message):
    with pytest.raises(SystemExit) as ended:
        layers(monkeypatch, argument)
    assert str(ended.value).startswith(message)


def test_a_run_folder_is_no_override(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        layers(monkeypatch, "runs/compress-quant")
    assert "'runs/compress-quant' is no KEY=VALUE: layers are those of a configuration" in capsys.readouterr().err
