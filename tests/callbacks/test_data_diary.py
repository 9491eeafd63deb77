"""The sheet of suspects and the map: for every kind of network and label, and what is planted."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from convlens.cli.main import main
from convlens.rundir.claim import Claim
from convlens.rundir.lock import Hold
from convlens.rundir.paths import FILES, FOLDERS, find_run_folders
from support.tiny import TINY

OTHERS = (
    "grad_cam", "augmentation_preview", "learning_curves", "confusion_matrix", "scores", "mistakes",
    "class_means", "activation_grids", "occlusion_maps", "filter_visuals",
)  # fmt: skip
WORDS = [*TINY, "training.epochs=1", "looking.seconds=100", "logger.tensorboard=false"]
WORDS += [f"callbacks.{name}=null" for name in OTHERS]


@pytest.mark.parametrize(
    ("words", "maps"),
    [
        (["training.loss=binary", "data.classes=2"], True),
        (["exp=multi_label"], False),
        (["model.filters=[]"], True),  # no feature map: images with captions
    ],
    ids=["one_logit", "several_classes", "dense"],
)
def test_suspects_are_drawn_for(words, maps, tmp_path):
    home = tmp_path / "run"
    assert main(["train", f"run_dir={home}", *WORDS, *words]) == 0
    summary = json.loads((home / "summary.json").read_text())
    assert not summary["failures"] and not summary["left_out"]
    drawn = {file.stem for file in (home / "explanations/epoch_001/training").iterdir()}
    assert drawn == {"mislabelled", *(("map",) if maps else ())}


def read(file: Path) -> list[dict]:
    with open(file, encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table))


def test_planted_labels_are_listed_and_the_test_images_have_none(tmp_path):
    home = tmp_path / "run"
    words = [*TINY, "training.epochs=1", "callbacks=none", "data.label_noise=0.25"]
    assert main(["train", f"run_dir={home}", *words, "diary.rows=true"]) == 0
    assert {each.name for each in home.iterdir()} <= {".lock", *FOLDERS, *FILES}
    planted = read(home / "planted.csv")
    splits = [row["file"].split("/")[1] for row in planted]
    assert splits == ["train"] * 11 + ["validation"] * 2  # of 44 and 8
    given = {row["file"]: row["class"] for row in read(home / "diary.csv")}
    classes = ["disc", "triangle", "square", "star", "ring"]
    for row in planted[:11]:
        number = int(row["file"].rpartition("/")[2])
        assert row["drawn"] == classes[number % 5]
        assert row["class"] == given[row["file"]] != row["drawn"]
    for file, name in given.items():
        if file not in {row["file"] for row in planted}:
            assert name == classes[int(file.rpartition("/")[2]) % 5]


def test_overwriting_a_run_removes_its_diary_and_nothing_of_the_users(tmp_path, monkeypatch):
    monkeypatch.delenv("CONVLENS_RUN_DIR", raising=False)
    for name in ("config.yaml", "diary.csv", "planted.csv", "mine.txt"):
        (tmp_path / name).write_text("earlier")
    (tmp_path / "diary").mkdir()
    (tmp_path / "diary" / "epoch_001.safetensors").write_text("earlier")
    with Hold() as hold:
        Claim(str(tmp_path), "scratch", overwrite=True, num_nodes=1).take(hold)
    assert {each.name for each in tmp_path.iterdir()} - {".lock"} == {"mine.txt"}


def test_runs_are_found_in_folders_named_as_those_in_a_run(tmp_path):
    for name in ("diary", "probes/one", "plain"):
        (tmp_path / name / "diary").mkdir(parents=True)
        (tmp_path / name / "config.yaml").touch()
        (tmp_path / name / "diary" / "config.yaml").touch()  # in a run: no run of its own
    found = [each.relative_to(tmp_path).as_posix() for each in find_run_folders(tmp_path)]
    assert found == ["diary", "plain", "probes/one"]
