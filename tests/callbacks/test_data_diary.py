"""The sheet of suspects and the map: for every kind of network and label, and what is planted."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from convlens.callbacks import data_diary

from convlens.cli.main import main
from convlens.config.compose import compose
from convlens.data.datamodule import PictureData
from convlens.rundir.claim import Claim
from convlens.rundir.lock import Hold
from convlens.rundir.paths import FILES, FOLDERS, find_run_folders
from convlens.training.diary.diary import Diary
from support.tiny import TINY, draw_folder

OTHERS = (
    "grad_cam", "augmentation_preview", "learning_curves", "confusion_matrix", "scores", "mistakes",
    "class_means", "activation_grids", "occlusion_maps", "filter_visuals", "reliability",
)  # fmt: skip
CLASSES = ["disc", "triangle", "square", "star", "ring"]
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
    assert {"mislabelled", "hardest"} <= drawn and ("map" in drawn) == maps
    assert drawn <= {"mislabelled", "hardest", "learned_last", "map"}  # nothing forgotten yet


def test_images_that_look_the_same_with_different_labels_come_first(tmp_path, monkeypatch):
    """Each with its copy beside it, whatever the network says of them."""
    folder = draw_folder(tmp_path / "pictures", {"cats": 20, "dogs": 20})
    twin = folder / "dogs" / "twin.png"
    beside: list[tuple[str, str]] = []
    place = data_diary.place_beside

    def note(row, image, lines, *, source, edge):
        beside.append((source, lines[-1]))
        drawn = place(row, image, lines, source=source, edge=edge)
        assert (drawn[: row.shape[0], : row.shape[1]] == row).all()
        assert drawn.shape[1] > row.shape[1] + 24
        return drawn

    monkeypatch.setattr(data_diary, "place_beside", note)
    twin.write_bytes((folder / "cats" / "0.png").read_bytes())
    every = [word for word in WORDS if not word.startswith(("data.pictures", "probes"))]
    every += ["data=image_folder", f"data.dir={folder}", "probes.count=2", "seed=2"]
    every += ["data.split.validation=4", "data.split.test=4"]
    home = tmp_path / "run"
    assert main(["train", f"run_dir={home}", *every]) == 0
    (row,) = read(home / "conflicts.csv")
    assert (row["split"], row["other_split"], row["same"]) == ("train", "train", "bytes")
    pair = {row["file"]: row["class"], row["other_file"]: row["other_class"]}
    assert pair == {str(folder / "cats/0.png"): "cats", str(twin): "dogs"}
    ((first, label),) = beside
    assert label == f"label: {pair[first]}"
    assert (home / "explanations/epoch_001/training").is_dir()


def test_copies_take_half_of_the_places_each_pair_once():
    """By the ranking of made-up margins."""
    labels, copies = np.array([0, 1] * 5), {0: 1, 1: 0, 4: 9, 9: 4, 6: 7, 7: 6}
    names = [f"{n}" for n in range(10)]
    margins = np.array([5, 4, -1, -2, 3, 2, 1, 6, 7, 8.0])
    diary = Diary(labels, names, ["cat", "dog"], copies=copies)
    diary.record.arrays["margin"][:] = margins
    diary.record.arrays["weight"][:] = 1
    chosen = [(each.row, each.copy) for each in diary.list_suspects(5)]
    # rank: 3 2 6 5 4 1 0 7 8 9; of the pairs 6 and 4 come first
    assert chosen == [(6, 7), (4, 9), (3, None), (2, None), (5, None)]
    assert [each.row for each in diary.list_suspects(1)] == [3]
    assert len(diary.list_suspects(99)) == 10


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
    for row in planted[:11]:
        number = int(row["file"].rpartition("/")[2])
        assert row["drawn"] == CLASSES[number % 5]
        assert row["class"] == given[row["file"]] != row["drawn"]
    for file, name in given.items():
        if file not in {row["file"] for row in planted}:
            assert name == CLASSES[int(file.rpartition("/")[2]) % 5]


def test_planted_shortcuts_are_listed_with_their_place(tmp_path):
    home = tmp_path / "run"
    words = [*TINY, "training.epochs=1", "callbacks=none", "diary=null"]
    marks = ["data.shortcut=0.5", "data.shortcut_kind=border", "data.label_noise=0.25"]
    assert main(["train", f"run_dir={home}", *words, *marks]) == 0
    listed = {row["file"]: row for row in read(home / "planted_shortcuts.csv")}
    plain, marked = (
        PictureData(config.data, seed=config.seed, batch_size=4, eval_batch_size=4).dataset.splits
        for config in (compose(words), compose([*words, *marks]))
    )
    for split, images in marked.items():
        for row, name in enumerate(images.names):
            changed = (images.images[row] != plain[split].images[row]).any(axis=2)
            assert changed.any() == (name in listed)
            if name not in listed:
                continue
            at = listed.pop(name)
            left, top, right, bottom = (int(at[k]) for k in ("left", "top", "right", "bottom"))
            assert changed[top:bottom, left:right].sum() == changed.sum()
            assert (at["class"], at["shortcut"]) == (CLASSES[int(name.split("/")[2]) % 5], "border")
    assert not listed


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
