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
from convlens.config.checks import restore_config
from convlens.experiment.data import build_data
from convlens.experiment.networks import restore_module
from convlens.export.facts import read_facts
from convlens.training.calibration import KEY, Calibration, calibrate, compute_ece, expand_logits
from convlens.training.calibrator import Calibrator
from convlens.training.survival.checkpoint import read_checkpoint
from support.apart import train as train_apart
from support.places import ROOT
from support.same import assert_same, trained
from support.tiny import TINY, draw_folder

SMALL = [word for word in TINY if not word.startswith("data.pictures")]
EARLIER = ROOT / "tests" / "config" / "earlier"
MANY = ["data=image_folder", "training.batch_size=50", "optimizer.lr=0.05", "callbacks=none"]
MANY += ["scheduler=constant", "data.augment.rotation_degrees=0"]


def read_table(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))


def read_kept(home: Path, which: str = "last") -> dict:
    return torch.load(home / "checkpoints" / f"{which}.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory) -> str:
    """Two classes of which each has a fifth of the other's images; 105 are for validation."""
    root = draw_folder(tmp_path_factory.mktemp("noisy"), {"cats": 350, "dogs": 350}, size=16)
    for name, other in (("cats", "dogs"), ("dogs", "cats")):
        for n in range(70):
            (root / name / f"{n}.png").rename(root / other / f"of_{name}_{n}.png")
    return f"data.dir={root}"


def make_calibration() -> Calibration:
    """Return the calibration of a made-up network that is too sure of itself."""
    drawn = torch.Generator().manual_seed(0)
    logits = torch.randn(400, 3, generator=drawn) * 0.3
    labels = torch.multinomial(logits.softmax(1), 1, generator=drawn)[:, 0]
    found = calibrate(logits * 3, labels)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of one epoch, to whose best checkpoint a temperature was given by hand."""
    home = tmp_path_factory.mktemp("calibrated") / "run"
    words = [*TINY, "training.epochs=1", "callbacks=none", "scheduler=constant"]
    assert main(["train", f"run_dir={home}", *words]) == 0
    content = read_kept(home, "best")
    assert content[KEY]["temperature"] == 1  # fewer than 100 validation images
    state = {KEY: make_calibration().to_state()}
    torch.save(content | state, home / "checkpoints" / "best.ckpt")
    return home


@pytest.fixture(scope="module")
def best(run) -> Path:
    return run / "checkpoints" / "best.ckpt"


def test_predictions_are_divided_by_the_temperature_and_the_class_stays(run, best, tmp_path):
    warm, plain = convlens.load(best), convlens.load(best, temperature=False)
    assert warm.temperature == make_calibration().temperature != 1
    images = torch.rand(6, *warm.shape)
    one, other = warm.probabilities(images), plain.probabilities(images)
    powers = other.double() ** (1 / warm.temperature)
    torch.testing.assert_close(one.double(), powers / powers.sum(1, keepdim=True), atol=1e-6,
                               rtol=1e-5)  # fmt: skip
    assert torch.equal(one.argmax(1), other.argmax(1))
    found = [each.explain(images[0], only="grad_cam") for each in (warm, plain)]
    torch.testing.assert_close(found[0].probabilities, one[0], atol=1e-6, rtol=0)
    for layer, maps in found[0].grad_cam.items():  # of the logits as they are
        assert torch.equal(maps, found[1].grad_cam[layer])


def test_a_run_says_why_it_has_no_temperature(run, capsys):
    details = json.loads((run / "summary.json").read_text())["test_details"]["calibration"]
    assert details["temperature"] == 1 and details["ece"] == details["ece_calibrated"]
    assert (
        details["uncalibrated"] == f"it takes 100 validation images, there are {details['images']}"
    )
    assert main(["report", f"run={run}"]) == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "No temperature was fitted: it takes 100 validation images" in page


def test_the_results_hold_what_the_predictions_of_eval_give(run, best, capsys):
    assert main(["eval", f"ckpt={best}"]) == 0
    assert f"with the temperature {make_calibration().temperature:.3g}" in capsys.readouterr().out
    assert main(["eval", f"ckpt={best}", "temperature=false"]) == 0
    home = run / "evaluation"
    known = json.loads((home / "best" / "results.json").read_text())["test_details"]["calibration"]
    assert known["temperature"] == make_calibration().temperature
    for folder, key in (("best", "test_ece_calibrated"), ("best_uncalibrated", "test_ece")):
        rows = read_table(home / folder / "predictions.csv")
        confidences = np.array([float(row["confidence"]) for row in rows])
        correct = np.array([row["predicted"] == row["true"] for row in rows])
        assert compute_ece(confidences, correct) == pytest.approx(known[key], abs=1e-4)
        assert list((home / folder).rglob("predictions/reliability/test.jpg"))


def test_an_exported_file_has_the_temperature(run, best, tmp_path):
    pytest.importorskip("onnxruntime", reason="comes with the extra `export`")
    pytest.importorskip("onnxscript", reason="comes with the extra `export`")
    assert main(["export", f"ckpt={best}", f"run_dir={tmp_path}"]) == 0
    warm, plain = convlens.load(best), convlens.load(best, temperature=False)
    file = convlens.load(tmp_path / "network.onnx")
    assert file.facts.temperature == warm.temperature
    images = torch.rand(3, *warm.shape)
    torch.testing.assert_close(file.probabilities(images), warm.probabilities(images), atol=1e-4,
                               rtol=0)  # fmt: skip
    undone = convlens.load(tmp_path / "network.onnx", temperature=False)
    torch.testing.assert_close(undone.probabilities(images), plain.probabilities(images),
                               atol=1e-4, rtol=0)  # fmt: skip
    tables = []
    for ckpt, name in ((best, "checkpoint"), (tmp_path / "network.onnx", "file")):
        words = [f"images={run / 'probes'}", f"run_dir={tmp_path / name}"]
        assert main(["predict", f"ckpt={ckpt}", *words]) == 0
        tables.append(read_table(tmp_path / name / "predictions.csv"))
    for one, other in zip(*tables, strict=True):
        assert one["predicted"] == other["predicted"]
        assert float(one["confidence"]) == pytest.approx(float(other["confidence"]), abs=1e-4)
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
    sure = np.sort([float(row["confidence"]) for row in rows])
    gap = np.diff(sure).argmax()
    middle = float(sure[gap : gap + 2].mean())
    confidences = np.append(np.linspace(1, middle, 400), np.full(400, 0.05))
    known = replace(
        make_calibration(), correct=np.arange(800) < 400, confidences=confidences, raw=confidences
    )
    file = tmp_path / "known.ckpt"
    torch.save(torch.load(best, weights_only=True) | {KEY: known.to_state()}, file)
    words = ["predict", f"images={images}", f"ckpt={file}", f"run_dir={tmp_path / 'b'}"]
    capsys.readouterr()
    least = known.find_threshold(0.99)
    assert least is not None
    assert main([*words, "abstain=0.99"]) == 0
    rows = read_table(tmp_path / "b" / "predictions.csv")
    for row in rows:
        assert (row["predicted"] == "") == (float(row["confidence"]) < least)
    left = sum(row["predicted"] == "" for row in rows)
    assert 0 < left < len(rows)
    assert f"abstained in {left} of {len(rows)} images" in capsys.readouterr().out
    refused = (
        ("abstain=0.9999", "30000 validation images"), ("abstain=2", "fraction"),
        ("abstain=0.99 temperature=false", "without temperature=false"),
    )  # fmt: skip
    for more, reason in refused:
        assert main([*words, *more.split()]) == 2
        assert reason in capsys.readouterr().err


def test_a_damaged_calibration_is_refused_in_one_line(run, best, tmp_path, capsys):
    content = torch.load(best, weights_only=True)
    content[KEY]["temperature"] = -1.0
    torch.save(content, tmp_path / "damaged.ckpt")
    assert main(["explain", f"ckpt={tmp_path / 'damaged.ckpt'}", f"run_dir={tmp_path / 'a'}"]) == 2
    assert "its calibration is damaged" in capsys.readouterr().err


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


def test_training_keeps_its_bits_without_calibration(run, tmp_path, monkeypatch):
    monkeypatch.setattr("convlens.training.module.Calibrator", lambda _: Calibrator(active=False))
    words = [*TINY, "training.epochs=1", "callbacks=none", "scheduler=constant"]
    assert main(["train", f"run_dir={tmp_path / 'run'}", *words]) == 0
    assert KEY not in read_kept(tmp_path / "run") and KEY in read_kept(run)
    assert_same(trained(run), trained(tmp_path / "run"))


@pytest.mark.parametrize("more", ["training.ema=0.9", "training.loss=binary"])
def test_the_temperature_is_that_of_the_network_in_the_checkpoint(more, noisy, tmp_path):
    """With averaged weights these are the averages. By a pass of its own over the images."""
    home = tmp_path / "run"
    words = [*SMALL, *MANY, noisy, "training.epochs=1", more]
    assert main(["train", f"run_dir={home}", *words]) == 0
    content = read_checkpoint(home / "checkpoints" / "last.ckpt")
    module = restore_module(content, "the checkpoint").eval()
    data = build_data(restore_config(content["hyper_parameters"]["config"], "it"))
    batches = [data.finish(batch) for batch in data.evaluation_loader("validation")]
    with torch.no_grad():
        logits = torch.cat([module(batch["image"]) for batch in batches])
    labels = torch.cat([batch["label"] for batch in batches])
    found = module.calibrator.validation
    assert found is not None and len(found.correct) == len(labels) >= 100
    assert found.temperature != 1
    full = expand_logits(logits)

    def loss(temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(full / temperature, labels))

    assert loss(found.temperature) < min(
        loss(1.01 * found.temperature), loss(found.temperature / 1.01)
    )
    shares = (full / found.temperature).softmax(1).amax(1).sort(descending=True).values
    torch.testing.assert_close(torch.from_numpy(found.confidences), shares, atol=1e-5, rtol=0)
    again = float(read_table(home / "metrics.csv")[-1]["val/ece"])
    assert again == compute_ece(found.raw, found.correct)


@pytest.mark.slow
def test_ddp_of_two_finds_the_temperature_of_one_process_also_after_a_resume(noisy, tmp_path):
    words = [*MANY, noisy, "precision=64", "model.batch_norm=false", "training.ema=0.9"]
    train_apart(tmp_path / "one", *words, "training.epochs=2", base=SMALL)
    train_apart(tmp_path / "two", *words, "training.epochs=2", "trainer=ddp_cpu", base=SMALL)
    one, two = (read_kept(tmp_path / name / "run")[KEY] for name in ("one", "two"))
    assert one["temperature"] == pytest.approx(two["temperature"], abs=1e-9) != 1
    for name in ("raw", "confidences"):
        torch.testing.assert_close(one[name].sort()[0], two[name].sort()[0], atol=1e-9, rtol=0)
    # in this process, whose number of threads is another
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    assert main(["train", f"run_dir={whole}", *SMALL, *words, "training.epochs=2"]) == 0
    assert main(["train", f"run_dir={parted}", *SMALL, *words, "training.epochs=1"]) == 0
    assert main(["resume", f"run={parted}", "training.epochs=2"]) == 0
    assert_same(read_kept(parted)[KEY], read_kept(whole)[KEY])
