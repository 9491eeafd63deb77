"""``make audit``: two trainings with threshold samples, and what becomes of them."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from convlens.cli.main import main
from convlens.config.compose import compose
from convlens.core.errors import UserError
from convlens.data.datamodule import PictureData
from convlens.data.sources.threshold import CLASS_NAME, draw_threshold_samples
from convlens.experiment import audit as audits
from convlens.rundir.paths import FILES, FOLDERS, find_run_folders
from support.tiny import TINY, draw_folder

WORDS = [word for word in TINY if not word.startswith(("data.pictures", "probes"))]
WORDS += ["data=image_folder", "callbacks=none", "logger.tensorboard=false", "probes.count=2"]
WORDS += ["training.epochs=2", "scheduler=constant", "optimizer.lr=0.02", "data.augment.mixup=0"]
WORDS += ["data.split.validation=10", "data.split.test=10"]


def read(file: Path) -> list[dict[str, str]]:
    with open(file, encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table))


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_samples_are_a_random_part_and_no_image_is_one_twice(classes):
    rng = np.random.default_rng(0)
    labels = np.append(rng.integers(0, classes - 1, 299), classes - 1)  # a class with one image
    first, second = (draw_threshold_samples(labels, classes, part, seed=4) for part in (1, 2))
    assert len(first) == len(second) == round(300 / (classes + 1)) or classes == 2
    assert not set(first) & set(second) and 299 not in {*first, *second}
    for part in (first, second):
        assert set(np.delete(labels, part)) == set(labels)
        share = np.bincount(labels[part], minlength=classes) / np.bincount(labels)
        assert np.abs(share[:-1] - len(part) / 300).max() < 0.15
    assert (draw_threshold_samples(labels, classes, 1, seed=4) == first).all()
    assert set(draw_threshold_samples(labels, classes, 1, seed=5)) != set(first)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = draw_folder(tmp_path_factory.mktemp("pictures"), {"cats": 60, "dogs": 60})
    for file in sorted((folder / "cats").iterdir())[:6]:
        file.rename(folder / "dogs" / f"wrong{file.name}")
    return folder


@pytest.fixture(scope="module")
def run(pictures, tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("run") / "run"
    words = [*WORDS, "training.loss=binary", "training.class_weights=balanced"]
    assert main(["train", f"run_dir={home}", f"data.dir={pictures}", *words]) == 0
    return home


@pytest.fixture
def trainings(monkeypatch) -> list[list[str]]:
    """The trainings that are started, in this process."""
    started: list[list[str]] = []

    def run_here(words: list[str]) -> tuple[int, bool]:
        started.append(words)
        return main(words), False

    monkeypatch.setattr(audits, "run_apart", run_here)
    return started


def test_an_audit_judges_every_training_image_and_changes_nothing_of_the_run(
    run, pictures, trainings, capsys
):
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    assert main(["audit", f"run={run}", "catch=0.9"]) == 0
    assert [Path(words[1]).name for words in trainings] == ["1", "2"]
    assert all(file.read_bytes() == content for file, content in before.items())
    assert {each.name for each in run.iterdir()} <= {".lock", *FOLDERS, *FILES}
    assert find_run_folders(run.parent) == [run]  # its trainings are no runs in a list of runs
    given = {row["file"]: row["class"] for row in read(run / "diary.csv")}
    rows = read(run / "mislabelled.csv")
    assert {row["file"]: row["class"] for row in rows} == given and len(given) == 100
    diaries = [read(run / "audit" / part / "diary.csv") for part in "12"]
    samples = [{row["file"] for row in diary if row["class"] == CLASS_NAME} for diary in diaries]
    assert [len(each) for each in samples] == [33, 33] and not samples[0] & samples[1]
    cuts = []
    for diary in diaries:
        margins = sorted(float(row["aum"]) for row in diary if row["class"] == CLASS_NAME)
        cuts.append(margins[29])  # 30 of 33 are 0.909
    known = [{row["file"]: row for row in diary} for diary in diaries]
    for row in rows:
        part = int(row["file"] in samples[0])
        assert float(row["aum"]) == float(known[part][row["file"]]["aum"])
        assert float(row["cut"]) == pytest.approx(cuts[part], rel=1e-5)
        assert (row["suspected"] == "yes") == (float(row["aum"]) <= cuts[part])
        assert row["other"] != CLASS_NAME
    below = [float(row["aum"]) - float(row["cut"]) for row in rows]
    assert below == sorted(below)
    marked = [row["file"] for row in rows if row["suspected"]]
    wrong = [file for file in given if "wrong" in file]
    assert set(wrong) & set(marked)
    said = capsys.readouterr().out
    assert f"{len(marked)} of 100 training labels are suspected: the cut catches 0.9" in said
    for part in "12":
        config = yaml.safe_load((run / "audit" / part / "config.yaml").read_text())
        assert config["training"]["loss"] == "cross_entropy" and len(
            config["training"]["class_weights"]
        ) == 3  # fmt: skip
        text = (run / "audit" / part / "split.csv").read_text()
        assert text.count(CLASS_NAME) == 33 and f"{CLASS_NAME},validation" not in text
    # another fraction trains nothing; the review follows the audit
    trainings.clear()
    assert main(["audit", f"run={run}", "catch=0.5"]) == 0
    fewer = [row for row in read(run / "mislabelled.csv") if row["suspected"]]
    assert not trainings and len(fewer) < len(marked)
    assert main(["review", f"run={run}", "images=1"]) == 0
    assert Path(rows[0]["file"]).name in (run / "review.html").read_text(encoding="utf-8")


def test_a_stopped_audit_continues_and_one_of_another_recipe_begins_anew(
    run, tmp_path, monkeypatch
):
    home = Path(shutil.copytree(run, tmp_path / "run"))
    shutil.rmtree(home / "audit", ignore_errors=True)
    monkeypatch.setattr(audits, "run_apart", lambda words: (130, True))
    assert main(["audit", f"run={home}"]) == 130
    (home / "audit/1/mark").touch()
    monkeypatch.setattr(audits, "run_apart", lambda words: (1, False))
    with pytest.raises(UserError, match=r"training 1 of the audit failed: `.*resume run="):
        audits.audit(home, "0.99")
    assert (home / "audit/1/mark").exists()
    text = (home / "config.yaml").read_text()
    (home / "config.yaml").write_text(text.replace("lr: 0.02", "lr: 0.01"))
    with pytest.raises(UserError):
        audits.audit(home, "0.99")
    assert not (home / "audit/1/mark").exists()


def test_copies_of_a_sample_do_not_count_as_conflicts(pictures, tmp_path):
    folder = Path(shutil.copytree(pictures, tmp_path / "pictures"))
    for number in range(20, 50):
        shutil.copy(folder / "cats" / f"{number}.png", folder / "cats" / f"copy{number}.png")
    words = [*WORDS, f"data.dir={folder}", "data.threshold_samples=1"]
    data = PictureData(compose(words).data, seed=0, batch_size=8, eval_batch_size=8)
    assert data.dataset.conflicts == [] and not any("conflict" in note for note in data.notes)
    assert data.class_names[-1] == CLASS_NAME and data.index.counts["test"][-1] == 0


@pytest.mark.parametrize("catch", ["0", "1", "x", "nan"])
def test_what_is_no_fraction_is_refused(catch, run):
    with pytest.raises(UserError, match="expected a fraction between 0 and 1"):
        audits.audit(run, catch)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"diary": None}, "diary=null kept no diary"),
        ({"data": {"multi_label": True}}, "one class per image"),
        (None, "images are not files"),
    ],
)
def test_runs_that_cannot_be_audited_are_refused(change, reason, run, tmp_path):
    home = Path(shutil.copytree(run, tmp_path / "run"))
    config = yaml.safe_load((home / "config.yaml").read_text())
    if change is None:
        (home / "split.csv").unlink()
    for key, value in (change or {}).items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    (home / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=reason):
        audits.audit(home, "0.99")
