"""A real two-epoch run: its folder, its event file read back picture by picture, its results."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from convlens.cli.main import main
from convlens.config.checks import restore_config
from convlens.explain.layers import choose_layers
from convlens.models import build_model
from support.tiny import TINY

EPOCHS = 2


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A finished run, with more time to look than it needs, whatever else the machine does."""
    home = tmp_path_factory.mktemp("run") / "it"
    words = [
        *TINY,
        f"training.epochs={EPOCHS}",
        "looking.seconds=600",
        "looking.first_seconds=600",
        "trainer.log_every_n_steps=2",
    ]
    assert main(["train", f"run_dir={home}", *words]) == 0
    return home


@pytest.fixture(scope="module")
def events(run_dir):
    found = EventAccumulator(
        str(run_dir / "tensorboard"), {"images": 0, "scalars": 0, "tensors": 0}
    )
    found.Reload()
    return found


@pytest.fixture(scope="module")
def config(run_dir):
    return yaml.safe_load((run_dir / "config.yaml").read_text())


def test_the_folder_holds_what_the_contract_says(run_dir, config):
    files = "config.yaml metrics.csv summary.json train.log checkpoints/best.ckpt"
    files += " checkpoints/last.ckpt tensorboard explanations/epoch_000 probes"
    for name in files.split():
        assert (run_dir / name).exists(), name
    assert config["precision"] == 32
    assert not list(run_dir.rglob("*.tmp"))


def test_summary_holds_the_contracts_keys(run_dir):
    summary = json.loads((run_dir / "summary.json").read_text())
    assert {
        "experiment", "seed", "epochs", "best_epoch", "train", "val", "val_last", "test",
        "images_per_second", "seconds", "precision", "processes", "versions", "alarms",
    } <= set(summary)  # fmt: skip
    assert summary["epochs"] == EPOCHS
    assert {
        "total", "setup", "decoding", "features", "training", "validation", "diary", "checkpoints",
        "explaining", "test", "closing", "report", "other",
    } == set(summary["seconds"])  # fmt: skip
    assert {"loss", "accuracy"} <= set(summary["test"])
    assert summary["failures"] == []
    parts = sum(v for k, v in summary["seconds"].items() if k != "total")
    assert parts == pytest.approx(summary["seconds"]["total"], abs=1e-6)


def test_every_scalar_has_every_step_from_zero(events, run_dir):
    tags = ["train/loss", "train/accuracy", "val/loss", "val/accuracy", "val/balanced_accuracy",
            "lr/model"]  # fmt: skip
    for tag in tags:
        assert [event.step for event in events.Scalars(tag)] == [0, 1, 2], tag
    summary = json.loads((run_dir / "summary.json").read_text())
    assert [event.step for event in events.Scalars("test/loss")] == [summary["best_epoch"]]
    with open(run_dir / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    for tag in tags:
        for event, row in zip(events.Scalars(tag), rows, strict=True):
            assert event.value == pytest.approx(float(row[tag]), rel=1e-6)


def test_only_train_step_runs_on_optimiser_steps(events):
    steps = [event.step for event in events.Scalars("train_step/loss")]
    assert steps == [2, 4, 6, 8, 10, 12]
    others = {tag for tag in events.Tags()["scalars"] if not tag.startswith("train_step/")}
    assert all(event.step <= EPOCHS for tag in others for event in events.Scalars(tag))


def test_curves_share_a_chart(events):
    assert "custom_scalars__config__" in events.Tags()["tensors"]
    layout = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    for tag in (b"train/loss", b"val/loss", b"train/accuracy", b"val/accuracy"):
        assert tag in layout


def expected_tags(config: dict) -> set[str]:
    """Said here anew from the network, not taken from the callbacks."""
    model = build_model(restore_config(config, "the run").model, channels=3, size=16, outputs=5)
    shown = choose_layers(model, "auto", "activations", example=torch.zeros(1, 3, 16, 16))
    assert shown == [
        f"backbone.block{i}.{part}" for i in (1, 2) for part in ("conv", "activation", "pool")
    ] or shown == [
        f"backbone.block{i}.{part}"
        for i in (1, 2)
        for part in ("conv", "norm", "activation", "pool")
    ]
    # four layers by default, which are one of each block here
    return {layer for layer in shown if layer.endswith(".activation")}


def test_every_picture_is_there_at_every_step_and_shows_something(events, config, run_dir):
    probes = sorted(file.stem for file in (run_dir / "probes").glob("*.png"))
    assert len(probes) == 3
    tags = {
        f"layers/activations/{layer}/{probe}"
        for layer in expected_tags(config)
        for probe in probes[:2]
    }
    tags |= {f"grad_cam/{probe}" for probe in probes}
    kernels = "layers/filters/backbone.block1.conv"
    ascents = {
        "layers/filters/backbone.block2.conv",
        "layers/filters/head.dense1",
        "layers/filters/head.logits",
    }
    best = json.loads((run_dir / "summary.json").read_text())["best_epoch"]
    steps = {tag: [0, 1, 2] for tag in tags | {kernels, "grad_cam_means"} | ascents}
    # of the answers to validation, and of those to the test; TINY networks do make mistakes
    answers = [
        "predictions/confusion_matrix",
        "predictions/reliability",
        *(f"predictions/{w}" for w in ("mistakes", "random")),
    ]
    for tag in (*answers, "predictions/breakdown"):
        steps |= {tag: [1, 2], f"{tag}/test": [best]}
    steps |= {tag: [2] for tag in ("learning_curves", "layers/depth/sparsity", "layers/depth/dead")}
    steps |= {f"training/{what}": [1, 2] for what in ("map", "mislabelled")}
    steps |= {f"training/{what}": [2] for what in ("hardest", "forgotten", "learned_last")}
    steps["layers/changes"] = [1, 2]
    steps["layers/feature_space"] = [0, 1, 2]
    steps[f"training/augmentation/{probes[0]}"] = [0]
    # occlusion only of probes that are answered rightly when they are looked at
    drawn = {tag for tag in events.Tags()["images"] if not tag.startswith("occlusion/")}
    assert drawn == set(steps)
    for tag in events.Tags()["images"]:
        looks = events.Images(tag)
        # the full set of filter pictures replaces the last epoch's few
        if tag in steps:
            assert sorted({look.step for look in looks}) == steps[tag], tag
        for look in looks:
            picture = Image.open(io.BytesIO(look.encoded_image_string))
            assert picture.format == "JPEG"
            assert picture.size == (look.width, look.height), tag
            assert min(picture.size) >= 60, tag
            pixels = np.asarray(picture.convert("RGB"), dtype=float)
            assert pixels.std() > 5, f"{tag} at {look.step} is blank"
            file = run_dir / "explanations" / f"epoch_{look.step:03d}" / f"{tag}.jpg"
            assert file.exists()


def test_pictures_change_while_the_network_learns(events):
    for tag in events.Tags()["images"]:
        looks = {look.step: look.encoded_image_string for look in events.Images(tag)}
        if looks.keys() >= {0, EPOCHS}:
            assert looks[0] != looks[EPOCHS], tag


def test_checkpoints_are_data_and_explain_themselves(run_dir):
    for name in ("best", "last"):
        content = torch.load(run_dir / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert content["hyper_parameters"]["class_names"][0]
        assert content["hyper_parameters"]["config"]["data"]["name"] == "shapes"


def test_eval_gives_the_numbers_of_the_run(run_dir, capsys):
    summary = json.loads((run_dir / "summary.json").read_text())
    assert main(["eval", f"ckpt={run_dir}/checkpoints/best.ckpt"]) == 0
    again = json.loads((run_dir / "summary.json").read_text())
    assert again["evaluations"]["best.ckpt"]["test"] == summary["test"]
    assert f"{summary['test']['accuracy']:.4f}" in capsys.readouterr().out


def test_plan_prints_data_layers_and_tags(run_dir, capsys):
    assert main(["plan", *TINY]) == 0
    printed = capsys.readouterr().out
    said = (
        "validation",
        "backbone.block2.conv",
        "receptive field",
        "grad_cam/<probe>",
        "ms per step",
    )
    for text in said:
        assert text in printed
    assert main(["plan", f"ckpt={run_dir}/checkpoints/last.ckpt"]) == 0
    assert "backbone.block2.conv" in capsys.readouterr().out


def test_log_file_is_complete(run_dir):
    log = (run_dir / "train.log").read_text()
    assert "epoch 2/2" in log
    assert "Traceback" not in log


def test_summary_tells_the_whole_run_when_the_best_epoch_is_an_early_one(tmp_path):
    words = [*TINY, "training.epochs=4", "optimizer.lr=0.5", "scheduler=constant", "callbacks=none"]
    assert main(["train", f"run_dir={tmp_path}/run", *words]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    with open(tmp_path / "run" / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["val/loss"]) for row in rows[1:]]
    assert summary["epochs"] == len(losses) == 4
    assert summary["best_epoch"] == losses.index(min(losses)) + 1 < 4
    assert summary["val"]["loss"] == pytest.approx(min(losses))
    assert summary["val_last"]["loss"] == pytest.approx(losses[-1])
    best = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["epoch"] + 1 == summary["best_epoch"]


def test_overfitting_notice_reaches_summary_and_screen(tmp_path, capsys):
    words = [*TINY, "training.epochs=25", "model.head.hidden=[64]", "optimizer.lr=0.01"]
    words += ["scheduler=constant", "callbacks=none", "alarms.overfitting_epochs=3"]
    assert main(["train", f"run_dir={tmp_path}/run", *words]) == 0
    alarms = json.loads((tmp_path / "run" / "summary.json").read_text())["alarms"]
    (notice,) = (line for line in alarms if line.startswith("overfitting"))
    best = json.loads((tmp_path / "run" / "summary.json").read_text())["best_epoch"]
    assert f"stop at epoch {best}," in notice
    assert f"! {notice}" in capsys.readouterr().out
