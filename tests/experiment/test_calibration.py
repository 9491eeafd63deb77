"""The temperature of a run: in its checkpoints, predictions, exports, and after a resume."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import convlens
from convlens.cli.main import main
from convlens.export.facts import read_facts
from convlens.training.calibration import KEY, compute_ece
from support.tiny import TINY


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("calibrated") / "run"
    words = [word for word in TINY if not word.startswith("data.pictures")]
    words += [
        "data.pictures=1500",
        "training.epochs=2",
        "callbacks=none",
        "training.batch_size=100",
    ]
    assert main(["train", f"run_dir={home}", *words]) == 0
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


def test_the_summary_holds_what_the_predictions_of_eval_give(run, best):
    assert main(["eval", f"ckpt={best}"]) == 0
    assert main(["eval", f"ckpt={best}", "temperature=false"]) == 0
    known = json.loads((run / "summary.json").read_text())["test_details"]["calibration"]
    for folder, key in (("best", "test_ece_calibrated"), ("best_uncalibrated", "test_ece")):
        rows = list(csv.DictReader((run / "evaluation" / folder / "predictions.csv").open()))
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
    known = convlens.load(best).calibration
    precision = float(known.correct.mean()) + 0.02
    least = known.find_threshold(precision)
    assert least is not None
    words = ["predict", f"ckpt={best}", f"images={images}", f"run_dir={tmp_path / 'a'}"]
    assert main([*words, f"abstain={precision}"]) == 0
    rows = list(csv.DictReader((tmp_path / "a" / "predictions.csv").open()))
    for row in rows:
        assert (row["predicted"] == "") == (float(row["confidence"]) < least)
    left = sum(row["predicted"] == "" for row in rows)
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
