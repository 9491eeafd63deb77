"""The temperature of a run: in its checkpoints, predictions, exports, and after a resume."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import convlens
from convlens.cli.main import main
from convlens.export.facts import read_facts
from convlens.training.calibration import (
    KEY,
    Calibration,
    Calibrator,
    calibrate,
    compute_ece,
)
from support.places import ROOT
from support.tiny import TINY

EARLIER = ROOT / "tests" / "config" / "earlier"


def read_table(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))


def make_calibration() -> Calibration:
    """Return the calibration of a made-up network that is too sure of itself."""
    drawn = torch.Generator().manual_seed(0)
    logits = torch.randn(400, 3, generator=drawn) * 0.3
    labels = torch.multinomial(logits.softmax(1), 1, generator=drawn)[:, 0]
    return calibrate(logits * 3, labels)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of one epoch, to whose best checkpoint a temperature was given by hand."""
    home = tmp_path_factory.mktemp("calibrated") / "run"
    words = [*TINY, "training.epochs=1", "callbacks=none"]
    assert main(["train", f"run_dir={home}", *words]) == 0
    file = home / "checkpoints" / "best.ckpt"
    content = torch.load(file, weights_only=True)
    assert content[KEY]["temperature"] == 1  # fewer than 100 validation images
    torch.save(content | {KEY: make_calibration().to_state()}, file)
    return home


@pytest.fixture(scope="module")
def best(run) -> Path:
    return run / "checkpoints" / "best.ckpt"


def test_predictions_are_divided_by_the_temperature_and_the_class_stays(run, best, tmp_path):
    warm, plain = convlens.load(best), convlens.load(best, temperature=False)
    assert warm.temperature == torch.load(best, weights_only=True)[KEY]["temperature"] != 1
    images = torch.rand(6, *warm.shape)
    one, other = warm.probabilities(images), plain.probabilities(images)
    powers = other.double() ** (1 / warm.temperature)
    torch.testing.assert_close(one.double(), powers / powers.sum(1, keepdim=True), atol=1e-6,
                               rtol=1e-5)  # fmt: skip
    assert torch.equal(one.argmax(1), other.argmax(1))


def test_the_results_hold_what_the_predictions_of_eval_give(run, best):
    assert main(["eval", f"ckpt={best}"]) == 0
    assert main(["eval", f"ckpt={best}", "temperature=false"]) == 0
    home = run / "evaluation"
    details = json.loads((home / "best" / "results.json").read_text())["test_details"]
    known = details["calibration"]
    assert known["temperature"] == make_calibration().temperature
    for folder, key in (("best", "test_ece_calibrated"), ("best_uncalibrated", "test_ece")):
        rows = read_table(home / folder / "predictions.csv")
        confidences = np.array([float(row["confidence"]) for row in rows])
        correct = np.array([row["predicted"] == row["true"] for row in rows])
        assert compute_ece(confidences, correct) == pytest.approx(known[key], abs=1e-4)


def test_an_exported_file_has_the_temperature(best, tmp_path):
    pytest.importorskip("onnxruntime", reason="comes with the extra `export`")
    pytest.importorskip("onnxscript", reason="comes with the extra `export`")
    assert main(["export", f"ckpt={best}", "cam=true", f"run_dir={tmp_path}"]) == 0
    warm, plain = convlens.load(best), convlens.load(best, temperature=False)
    file = convlens.load(tmp_path / "network.onnx")
    assert file.facts.temperature == warm.temperature
    images = torch.rand(3, *warm.shape)
    torch.testing.assert_close(file.probabilities(images), warm.probabilities(images), atol=1e-4,
                               rtol=0)  # fmt: skip
    undone = convlens.load(tmp_path / "network.onnx", temperature=False)
    torch.testing.assert_close(undone.probabilities(images), plain.probabilities(images),
                               atol=1e-4, rtol=0)  # fmt: skip
    assert main(["export", f"ckpt={best}", "format=safetensors", f"run_dir={tmp_path}"]) == 0
    from safetensors import safe_open

    with safe_open(tmp_path / "network.safetensors", "pt") as weights:
        assert read_facts(weights.metadata(), "file").temperature == warm.temperature


def test_predict_abstains_below_the_threshold_and_refuses_what_is_not_supported(
    run, best, tmp_path, capsys
):
    images = run / "probes"
    words = ["predict", f"images={images}", f"run_dir={tmp_path / 'a'}"]
    assert main([*words, f"ckpt={best}"]) == 0
    rows = read_table(tmp_path / "a" / "predictions.csv")
    middle = sorted(float(row["confidence"]) for row in rows)[1] - 1e-4
    known = replace(
        make_calibration(), correct=np.arange(800) < 400,
        confidences=np.append(np.linspace(1, middle, 400), np.full(400, 0.05)),
    )  # fmt: skip
    file = tmp_path / "known.ckpt"
    torch.save(torch.load(best, weights_only=True) | {KEY: known.to_state()}, file)
    words = ["predict", f"images={images}", f"ckpt={file}", f"run_dir={tmp_path / 'b'}"]
    capsys.readouterr()
    least = known.find_threshold(0.99)
    assert main([*words, "abstain=0.99"]) == 0
    rows = read_table(tmp_path / "b" / "predictions.csv")
    for row in rows:
        assert (row["predicted"] == "") == (float(row["confidence"]) < least)
    left = sum(row["predicted"] == "" for row in rows)
    assert 0 < left < len(rows)
    assert f"abstained in {left} of {len(rows)} images" in capsys.readouterr().out
    for word, reason in (("abstain=0.9999", "30000 validation images"), ("abstain=2", "fraction")):
        assert main([*words[:-1], word]) == 2
        assert reason in capsys.readouterr().err


def test_a_checkpoint_of_an_earlier_version_has_the_temperature_1(best, tmp_path):
    content = torch.load(best, weights_only=True)
    del content[KEY]
    torch.save(content, tmp_path / "older.ckpt")
    older = convlens.load(tmp_path / "older.ckpt")
    assert older.temperature == 1 and older.calibration is None


@pytest.mark.parametrize(
    "file", sorted(EARLIER.glob("*/checkpoints/best.ckpt")), ids=lambda file: file.parts[-3]
)
def test_runs_of_earlier_versions_predict_as_before(file):
    warm, plain = convlens.load(file), convlens.load(file, temperature=False)
    images = torch.rand(2, *warm.shape)
    assert warm.calibration is None
    assert torch.equal(warm.probabilities(images), plain.probabilities(images))


def test_a_resumed_run_has_the_same_calibration_and_training_keeps_its_bits(tmp_path, monkeypatch):
    words = [*TINY, "callbacks=none", "scheduler=constant", "training.epochs=2"]
    homes = [tmp_path / name for name in ("whole", "parted", "without")]
    assert main(["train", f"run_dir={homes[0]}", *words]) == 0
    assert main(["train", f"run_dir={homes[1]}", *words[:-1], "training.epochs=1"]) == 0
    assert main(["resume", f"run={homes[1]}", "training.epochs=2"]) == 0
    monkeypatch.setattr("convlens.training.module.Calibrator", lambda _: Calibrator(active=False))
    assert main(["train", f"run_dir={homes[2]}", *words]) == 0
    whole, parted, without = (
        torch.load(home / "checkpoints" / "last.ckpt", weights_only=True) for home in homes
    )
    assert KEY not in without
    assert whole[KEY]["ece"] == parted[KEY]["ece"]
    assert torch.equal(whole[KEY]["confidences"], parted[KEY]["confidences"])
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, parted["state_dict"][name])
        assert torch.equal(value, without["state_dict"][name])
