"""Runs with ``data.corrections``: what they train on, resume from, and are tested on."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from convlens.cli.main import main
from convlens.config.checks import restore_config
from convlens.config.compose import apply_overrides, compose
from convlens.core.errors import UserError
from convlens.data.index.tables import format_csv_line
from convlens.experiment.data import use_own_corrections
from convlens.experiment.unseen import select_test_images
from convlens.rundir.claim import ENVIRONMENT, Claim
from convlens.rundir.lock import Hold
from convlens.training.survival.checkpoint import read_checkpoint
from support.same import assert_same, trained
from support.tiny import TINY, draw_folder

WORDS = [word for word in TINY if not word.startswith(("data.pictures", "probes"))]
WORDS += ["data=image_folder", "callbacks=none", "logger.tensorboard=false", "probes.count=2"]
WORDS += ["scheduler=constant", "optimizer.lr=0.01"]


def train(home: Path, pictures: Path, *words: str) -> Path:
    every = [*WORDS, f"run_dir={home}", f"data.dir={pictures}", *words]
    assert main(["train", *every]) == 0
    return home


def rows(file: Path) -> list[dict[str, str]]:
    with open(file, newline="", encoding="utf-8") as text:
        return list(csv.DictReader(text))


def labels(home: Path) -> dict[str, tuple[str, str]]:
    return {row["file"]: (row["split"], row["label"]) for row in rows(home / "split.csv")}


def write(path: Path, *table: tuple[str, str, str]) -> Path:
    lines = map(format_csv_line, [("file", "class", "correction"), *table])
    path.write_text("".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> tuple[Path, Path]:
    """(run, pictures): class folders of 16, divided into 16, 8 and 8 images."""
    place = tmp_path_factory.mktemp("plain")
    pictures = draw_folder(place / "pictures", {"cats": 16, "dogs": 16})
    held = ["data.split.validation=8", "data.split.test=8"]
    return train(place / "run", pictures, "training.epochs=1", *held), pictures


@pytest.fixture(scope="module")
def corrected(plain, tmp_path_factory) -> Path:
    """A run of one epoch with a table of absolute names that is gone since; see ``table``."""
    place = tmp_path_factory.mktemp("corrected, 50 % [odd]")
    own = write(place / "a = b.csv", *((str(plain[1] / f), *more) for f, *more in table(plain[0])))
    held = ["data.split.validation=8", "data.split.test=8"]
    words = [f"data.corrections={own}", "data.corrections_of=[train,test]", "training.epochs=1"]
    home = train(place / "run", plain[1], *held, *words)
    own.unlink()
    return home


def table(home: Path) -> list[tuple[str, str, str]]:
    """Relabel a training, a validation and a test image, and leave out one of each."""
    found = []
    for split in ("train", "validation", "test"):
        names = [name for name, place in labels(home).items() if place == (split, "cats")]
        found += [(names[0], "cats", "dogs"), (names[1], "cats", "leave out")]
    return found


def expect(home: Path, *splits: str) -> dict[str, tuple[str, str]]:
    """What ``table`` makes of the labels of a run without it, by plain loops."""
    found = dict(labels(home))
    for name, _, wanted in table(home):
        if found[name][0] in splits:
            found[name] = (found[name][0], wanted)
    return {name: place for name, place in found.items() if place[1] != "leave out"}


def test_a_run_trains_and_tests_on_what_the_table_says(plain, corrected):
    assert labels(corrected) == expect(plain[0], "train", "test")
    diary = {Path(row["file"]).relative_to(plain[1]).as_posix(): row["class"]
             for row in rows(corrected / "diary.csv")}  # fmt: skip
    assert diary == {
        name: label for name, (split, label) in labels(corrected).items() if split == "train"
    }
    log = (corrected / "train.log").read_text()
    assert "train 1 relabelled, 1 left out; test 1 relabelled, 1 left out; 2 rows are about" in log
    assert "validation images and not applied (data.corrections_of=[train,test,validation]" in log
    assert [tuple(row.values()) for row in rows(corrected / "corrected.csv")] == table(plain[0])


def test_resume_needs_neither_the_table_nor_the_place_of_the_images(plain, corrected, tmp_path):
    home = Path(shutil.copytree(corrected, tmp_path / "moved run"))
    moved = Path(shutil.copytree(plain[1], tmp_path / "moved pictures"))
    assert main(["resume", f"run={home}", "training.epochs=2", f"data.dir={moved}"]) == 0
    own = write(tmp_path / "own.csv", *table(plain[0]))
    held = ["data.split.validation=8", "data.split.test=8", "data.corrections_of=[train,test]"]
    words = [f"data.corrections={own}", "training.epochs=2"]
    whole = train(tmp_path / "whole", plain[1], *held, *words)
    assert_same(trained(home), trained(whole))
    assert labels(home) == labels(whole)
    for name in ("split.csv", "corrected.csv"):
        assert (home / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize("change", ["table", "splits", "labels alone"])
def test_resume_with_other_labels_is_refused(plain, corrected, tmp_path, capsys, change):
    """A change of labels is a change of the data, also without the run's split.csv."""
    home = Path(shutil.copytree(corrected, tmp_path / "run"))
    if change == "splits":
        text = (home / "config.yaml").read_text()
        assert text.count("corrections_of:\n  - train\n  - test\n") == 1
        text = text.replace("corrections_of:\n  - train\n  - test\n", "corrections_of: [train]\n")
        (home / "config.yaml").write_text(text)
    else:
        # the first image keeps its label, another one gets it
        others = table(plain[0])[1:]
        name = [n for n, place in labels(plain[0]).items() if place == ("train", "cats")][2]
        write(home / "corrected.csv", (name, "cats", "dogs"), *others)
    if change == "labels alone":
        (home / "split.csv").unlink()
    capsys.readouterr()
    assert main(["resume", f"run={home}", "training.epochs=2"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert "start a new run" in line


def test_the_table_cannot_change_on_resume(corrected, capsys):
    words = [f"run={corrected}", "training.epochs=2", "data.corrections=other.csv"]
    assert main(["resume", *words]) == 2
    assert "data.corrections cannot change on resume" in capsys.readouterr().err


def choose(home: Path, *words: str):
    file = home / "checkpoints" / "best.ckpt"
    checkpoint = read_checkpoint(file)
    config = restore_config(checkpoint["hyper_parameters"]["config"], "the checkpoint")
    config = use_own_corrections(config, file)
    checkpoint["hyper_parameters"]["config"] = {**config.plain(), "format": 4}
    return select_test_images(apply_overrides(config, list(words)), checkpoint)


def read_tested(found, pictures: Path) -> dict[str, str]:
    images = found.data.dataset.splits["test"]
    names = [Path(name).relative_to(pictures).as_posix() for name in images.names]
    return {n: found.data.class_names[k] for n, k in zip(names, images.labels, strict=True)}


def of_test(places: dict[str, tuple[str, str]]) -> dict[str, str]:
    return {name: label for name, (split, label) in places.items() if split == "test"}


def test_eval_tests_what_the_run_has_tested(plain, corrected, capsys):
    found = choose(corrected)
    assert found.is_own_split
    assert read_tested(found, plain[1]) == of_test(labels(corrected))
    assert "data.corrections: 1 tested images relabelled, 0 left out" in found.lines
    before = json.loads((corrected / "summary.json").read_text())["test"]
    assert main(["eval", f"run={corrected}"]) == 0
    said = capsys.readouterr().out
    # the two that the run left out; the third row about leaving out was not applied
    assert "not tested: 2 images added or changed since the run began, or left out by" in said
    after = json.loads((corrected / "summary.json").read_text())["evaluations"]["best.ckpt"]
    assert after["test"] == before


def test_eval_corrects_test_images_only_by_name(plain, tmp_path):
    home, pictures = plain
    own = write(tmp_path / "own.csv", *table(home))
    found = choose(home, f"data.corrections={own}")
    assert found.is_own_split and read_tested(found, pictures) == of_test(labels(home))
    assert any("data.corrections has no effect on a test" in line for line in found.lines)
    found = choose(home, f"data.corrections={own}", "data.corrections_of=[test]")
    assert not found.is_own_split
    assert read_tested(found, pictures) == of_test(expect(home, "test"))
    assert "data.corrections: 1 tested images relabelled, 1 left out" in found.lines


def test_other_images_of_the_same_names_are_not_corrected(corrected, tmp_path):
    others = draw_folder(tmp_path / "others", {"cats": 16, "dogs": 16}, seed=5)
    found = choose(corrected, f"data.dir={others}")
    assert not found.is_own_split
    assert read_tested(found, others) == {
        f"{kind}/{k}.png": kind for kind in ("cats", "dogs") for k in range(16)
    }
    assert "the run's data.corrections are not about this data, and not applied" in found.lines
    own = write(tmp_path / "own.csv", ("cats/3.png", "cats", "dogs"), ("cats/99.png", "cats", "x"))
    with pytest.raises(UserError, match=r"line 3: cats/99.png is not among"):
        choose(corrected, f"data.dir={others}", f"data.corrections={own}")
    write(own, ("cats/3.png", "cats", "dogs"))
    found = choose(corrected, f"data.dir={others}", f"data.corrections={own}")
    assert read_tested(found, others)["cats/3.png"] == "dogs"


def test_overwriting_removes_the_copy_and_the_page_but_not_the_users_table(tmp_path, monkeypatch):
    names = ("config.yaml", "corrected.csv", "review.html", "corrections.csv")
    for name in names:
        (tmp_path / name).touch()
    monkeypatch.setenv(ENVIRONMENT, "")  # restored after the test
    with Hold() as hold:
        Claim(str(tmp_path), "scratch", True, 1).take(hold)
    assert [name for name in names if (tmp_path / name).exists()] == ["corrections.csv"]


def test_the_key_is_a_path_as_typed(tmp_path):
    odd = tmp_path / "a, b = [c] {d} (1).csv"
    assert compose(["data=image_folder", f"data.corrections={odd}"]).data.corrections == str(odd)
    assert compose(["data=image_folder", "data.corrections=null"]).data.corrections is None


def test_the_labels_that_train_are_part_of_the_record(plain, corrected):
    """Of the checkpoint itself, in which no table is named."""
    states = [
        torch.load(home / "checkpoints" / "last.ckpt", weights_only=True)["PictureData"]
        for home in (plain[0], corrected)
    ]
    assert not np.array_equal(states[0]["labels"], states[1]["labels"])
