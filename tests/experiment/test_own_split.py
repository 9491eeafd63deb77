"""The split belongs to the run: what it trained on or chose by is never among its test images."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as L
import torch

from convlens.cli.main import main
from convlens.config.checks import replace_values, restore_config
from convlens.config.compose import apply_overrides
from convlens.core.errors import UserError
from convlens.experiment import train as runs
from convlens.experiment.data import build_data, read_used_digests
from convlens.experiment.unseen import select_test_images
from convlens.training.survival.checkpoint import read_checkpoint
from convlens.training.survival.interruption import Interruption
from support.tiny import TINY, draw_folder

SMALL = [word for word in TINY if not word.startswith(("data.pictures", "probes"))]
SMALL += ["training.epochs=1", "callbacks=none", "logger.tensorboard=false", "probes.count=2"]
FOLDERS = [*SMALL, "data=image_folder"]


def train(home: Path, *words: str) -> Path:
    assert main(["train", f"run_dir={home}", *words]) == 0
    return home


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    """(run, its pictures): class folders without splits, 20 a class, 6 test and 6 validation."""
    place = tmp_path_factory.mktemp("own_split")
    pictures = draw_folder(place / "pictures", {"cats": 20, "dogs": 20})
    return train(place / "run", *FOLDERS, f"data.dir={pictures}"), pictures


@pytest.fixture
def run(trained, tmp_path) -> tuple[Path, Path]:
    """The same, to be changed: the pictures where the run's config says they are."""
    home, pictures = trained
    kept = tmp_path / "kept"
    shutil.copytree(pictures, kept)
    shutil.copytree(home, tmp_path / "run")
    yield tmp_path / "run", pictures
    shutil.rmtree(pictures)
    shutil.copytree(kept, pictures)


def splits_of(home: Path) -> dict[str, set[str]]:
    """Names by split, as split.csv has them."""
    found: dict[str, set[str]] = {"train": set(), "validation": set(), "test": set()}
    with open(home / "split.csv", newline="") as file:
        for row in csv.DictReader(file):
            found[row["split"]].add(row["file"])
    return found


def choose(home: Path, *words: str, name: str = "best.ckpt"):
    checkpoint = read_checkpoint(home / "checkpoints" / name)
    told = checkpoint["hyper_parameters"]["config"]
    config = apply_overrides(restore_config(told, "the checkpoint"), list(words))
    return select_test_images(config, checkpoint)


def names_of(tested, folder: Path) -> set[str]:
    names = list(tested.data.dataset.splits["test"].names)
    assert len(set(names)) == len(names)
    return {Path(name).relative_to(folder).as_posix() for name in names}


def new(folder: Path, counts: dict[str, int], seed: int = 99) -> Path:
    return draw_folder(folder, counts, seed=seed)


# ------------------------------------------------------------------- the run's own test pictures


def test_the_own_test_split_is_tested_when_pictures_were_added(run, capsys):
    """The example of the issue: one picture more in each class."""
    home, pictures = run
    for name in ("cats", "dogs"):
        new(pictures.parent / "more", {name: 1})
        shutil.move(pictures.parent / "more" / name / "0.png", pictures / name / "00.png")
    before = json.loads((home / "summary.json").read_text())["test"]
    assert main(["eval", f"run={home}"]) == 0
    out = capsys.readouterr().out
    assert "the run's own test split, 6 images" in out
    assert "not tested: 2 images added or changed since the run began" in out
    kept = json.loads((home / "summary.json").read_text())["evaluations"]["best.ckpt"]
    assert kept["test"] == before
    with open(home / "evaluation" / "best" / "predictions.csv", newline="") as file:
        tested = {
            Path(row["file"]).relative_to(pictures).as_posix() for row in csv.DictReader(file)
        }
    assert tested == splits_of(home)["test"]


def test_the_own_test_split_follows_renamed_and_moved_pictures(run):
    home, pictures = run
    moved = sorted(splits_of(home)["test"])[0]
    trained_on = sorted(splits_of(home)["train"])[0]
    (pictures / moved).rename(pictures / "dogs" / "zz_test.png")
    (pictures / trained_on).rename(pictures / "dogs" / "00_train.png")
    tested = choose(home)
    wanted = splits_of(home)["test"] - {moved} | {"dogs/zz_test.png"}
    assert names_of(tested, pictures) == wanted
    assert tested.is_own_split


def test_a_removed_test_picture_is_said_and_the_number_is_not_the_runs(run, at, capsys):
    home, pictures = run
    (pictures / sorted(splits_of(home)["test"])[0]).unlink()
    (pictures / sorted(splits_of(home)["train"])[0]).unlink()
    before = (home / "summary.json").read_text()
    assert main(["eval", f"run={home}"]) == 0
    assert "1 of the 6 images of the run's test split are no longer in" in capsys.readouterr().out
    assert (home / "summary.json").read_text() == before
    assert not (home / "evaluation").exists()


@pytest.mark.parametrize("words", [["seed=7"], ["data.split.test=0.5"], ["data.split.test=20"]])
def test_neither_seed_nor_shares_change_the_test_split(run, words):
    home, pictures = run
    tested = choose(home, *words)
    assert names_of(tested, pictures) == splits_of(home)["test"]
    assert any("no effect" in line and "belongs to the run" in line for line in tested.lines)


def test_a_lone_checkpoint_knows_its_split_and_is_small(run, at, capsys):
    home, pictures = run
    lone = at / "lone.ckpt"
    for name in ("best", "last"):
        shutil.copy(home / "checkpoints" / f"{name}.ckpt", lone)
        content = torch.load(lone, weights_only=True)
        parts = content["PictureData"]
        assert {split: len(parts[split]) for split in parts} == {
            "before": 0, "labels": 3,
            **{split: len(found) for split, found in splits_of(home).items()},
        }  # fmt: skip
        assert all(part.untyped_storage().nbytes() == 8 * len(part) for part in parts.values())
    shutil.move(home, at / "gone")
    new(pictures, {"cats": 1})
    assert main(["eval", f"ckpt={lone}"]) == 0
    assert "the run's own test split, 6 images" in capsys.readouterr().out
    # the summary of no run was touched, the results lie in a folder of their own
    assert list((at / "outputs" / "eval").glob("*/predictions.csv"))


def test_a_run_folder_notes_the_content_of_every_picture(run):
    home, pictures = run
    import hashlib

    with open(home / "pictures.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40
    for row in rows:
        content = hashlib.sha256((pictures / row["file"]).read_bytes()).digest()[:8]
        assert int(row["digest"], 16) == int.from_bytes(content, "little")


def test_every_file_is_hashed_once(tmp_path, monkeypatch):
    """While it is decoded; later runs and evaluations find the digests in the cache."""
    from convlens.data.pixels import contents
    from convlens.data.pixels import load as pixels

    hashed = []
    for module in (contents, pixels):
        plain = module.file_digest
        monkeypatch.setattr(
            module, "file_digest", lambda path, plain=plain: hashed.append(path) or plain(path)
        )
    pictures = draw_folder(tmp_path / "pictures", {"cats": 10, "dogs": 10})
    words = [*FOLDERS, f"data.dir={pictures}"]
    home = train(tmp_path / "run", *words)
    assert len(hashed) == 20
    assert choose(home).is_own_split
    train(tmp_path / "again", *words)
    assert len(hashed) == 20
    new(pictures, {"dogs": 1})  # another file of that name: its size and time say so
    choose(home)
    assert len(hashed) == 40


# --------------------------------------------------------------------------------- other pictures


def test_all_of_another_folder_is_tested_and_is_not_the_runs_number(run, at, capsys):
    home, _ = run
    other = new(at / "other", {"cats": 20, "dogs": 20})
    before = (home / "summary.json").read_text()
    assert main(["eval", f"run={home}", f"data.dir={other}"]) == 0
    assert f"tested: all 40 images of {other}" in capsys.readouterr().out
    assert (home / "summary.json").read_text() == before
    assert not (home / "evaluation").exists()
    (table,) = (at / "outputs" / "eval").glob("*/predictions.csv")
    assert len(table.read_text().splitlines()) == 41
    kept = json.loads((table.parent / "results.json").read_text())
    assert kept["data"] == str(other) and kept["images"] == 40 and not kept["own_test_split"]
    with open(table, newline="") as file:
        right = [row["predicted"] == row["true"] for row in csv.DictReader(file)]
    assert kept["test"]["accuracy"] == pytest.approx(np.mean(right))


def test_copies_of_used_pictures_are_left_out_counted_and_named(run, at, capsys):
    home, pictures = run
    other = new(at / "other", {"cats": 5, "dogs": 5})
    found = splits_of(home)
    used = {name: split for split in ("train", "validation") for name in sorted(found[split])[:2]}
    for number, name in enumerate(used):
        shutil.copy(pictures / name, other / "cats" / f"copy{number}.png")
    shutil.copy(pictures / sorted(found["test"])[0], other / "dogs" / "a_test_picture.png")
    assert main(["eval", f"run={home}", f"data.dir={other}"]) == 0
    out = capsys.readouterr().out
    assert f"tested: 11 of the 15 images of {other}" in out
    assert "left out: 4 images that this run has used (2 trained on, 2 validated on)" in out
    (table,) = (at / "outputs" / "eval").glob("*/left_out.csv")
    with open(table, newline="") as file:
        named = {Path(row["file"]).name: row["used"] for row in csv.DictReader(file)}
    assert named == {
        f"copy{number}.png": {"train": "trained on", "validation": "validated on"}[split]
        for number, split in enumerate(used.values())
    }


def test_nothing_but_used_pictures_is_refused_in_a_line(run, at, capsys):
    home, pictures = run
    other = at / "other"
    for name in sorted(splits_of(home)["train"]):
        place = other / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(pictures / name, place)
    assert main(["eval", f"run={home}", f"data.dir={other}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert "nothing is left to test" in line and str(other) in line and "data.dir" in line


def test_data_that_moved_as_a_whole_gives_the_runs_own_numbers(run, at):
    home, pictures = run
    shutil.copytree(pictures, at / "moved")
    tested = choose(home, f"data.dir={at / 'moved'}")
    assert names_of(tested, at / "moved") == splits_of(home)["test"]
    assert tested.is_own_split and len(tested.left_out) == 34


@pytest.mark.parametrize(
    ("layout", "count", "says"),
    [
        ({"test/cats": 3, "test/dogs": 3}, 6, "all 6 images in the test split"),
        (
            {f"{s}/{c}": n for s, n in (("train", 4), ("val", 2), ("test", 3))
             for c in ("cats", "dogs")},
            6, "not tested: the 12 images of its other splits",
        ),
        ({f"{s}/{c}": n for s, n in (("train", 4), ("val", 2)) for c in ("cats", "dogs")}, 12,
         "tested: all 12 images"),
        ({"cats": 1, "dogs": 1}, 2, "tested: all 2 images"),  # too few for any split
        ({"dogs": 3}, 3, "no tested image belongs to 1 of the 2 classes: cats"),
    ],
)  # fmt: skip
def test_layouts_of_other_data(run, at, layout, count, says):
    home, _ = run
    tested = choose(home, f"data.dir={new(at / 'other', layout)}")
    test = tested.data.dataset.splits["test"]
    assert len(test) == count and not tested.is_own_split
    assert says in "\n".join(tested.lines)
    for name, label in zip(test.names, test.labels.tolist(), strict=True):
        assert Path(name).parent.name == ("cats", "dogs")[label]


def test_other_data_by_pattern_and_by_table(run, at):
    home, pictures = run
    flat = at / "flat"
    flat.mkdir()
    for number, file in enumerate(sorted(new(at / "other", {"cats": 3, "dogs": 2}).rglob("*.png"))):
        shutil.copy(file, flat / f"{file.parent.name}_{number}.png")
    used = sorted(splits_of(home)["validation"])[0]
    shutil.copy(pictures / used, flat / "dogs_9.png")
    tested = choose(home, f"data.dir={flat}", "data.pattern={class}_{number}.*")
    assert len(tested.data.dataset.splits["test"]) == 5 and len(tested.left_out) == 1
    rows = [f"{file.name},{file.name.split('_')[0]}" for file in sorted(flat.iterdir())]
    (flat / "list.csv").write_text("\n".join(["file,label", *rows]) + "\n")
    tested = choose(home, f"data.dir={flat}", "data.csv=list.csv")
    assert len(tested.data.dataset.splits["test"]) == 5 and len(tested.left_out) == 1


def test_a_class_that_the_checkpoint_does_not_know_is_named(run, at):
    home, _ = run
    with pytest.raises(UserError, match="a class that the checkpoint does not know: birds;"):
        choose(home, f"data.dir={new(at / 'other', {'birds': 2, 'cats': 2})}")


def test_another_size_is_not_the_runs_own_number(run):
    home, _ = run
    assert choose(home).is_own_split
    assert not choose(home, "data.resize=crop").is_own_split


def test_predict_says_which_pictures_the_run_has_used(run, at, capsys):
    home, pictures = run
    words = ["predict", f"ckpt={home}/checkpoints/best.ckpt"]
    assert main([*words, f"images={pictures}"]) == 0
    out = capsys.readouterr().out
    assert "34 of 40 images were used by the run (28 trained on, 6" in out
    assert main([*words, f"images={new(at / 'other', {'cats': 2})}"]) == 0
    assert "used by the run" not in capsys.readouterr().out


# ------------------------------------------------------------------------- checkpoints of any kind


def test_an_older_checkpoint_says_that_it_cannot_tell(run, at, capsys):
    home, pictures = run
    for file in (home / "checkpoints").iterdir():
        content = torch.load(file, weights_only=True)
        del content["PictureData"]
        torch.save(content, file)
    before = (home / "summary.json").read_text()
    assert main(["eval", f"run={home}", "seed=5"]) == 0
    assert "may be among them" in capsys.readouterr().out
    assert (home / "summary.json").read_text() == before
    assert names_of(choose(home, "seed=5"), pictures) == splits_of(home)["test"]
    other = choose(home, f"data.dir={new(at / 'other', {'cats': 2, 'dogs': 2})}")
    assert len(other.data.dataset.splits["test"]) == 4
    assert "may be among them" in other.lines[0]


def train_half_an_epoch(home: Path, monkeypatch, *words: str) -> Path:
    class Signal(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            if batch_idx == 1:
                next(c for c in trainer.callbacks if isinstance(c, Interruption)).signal_number = 15

    plain = runs.build_trainer

    def build_trainer(*args):
        trainer, *rest = plain(*args)
        trainer.callbacks.append(Signal())
        return trainer, *rest

    with monkeypatch.context() as patch:
        patch.setattr(runs, "build_trainer", build_trainer)
        assert main(["train", f"run_dir={home}", *words]) == 143
    return home


def test_a_checkpoint_amid_an_epoch_knows_its_split(tmp_path, monkeypatch):
    pictures = draw_folder(tmp_path / "pictures", {"cats": 20, "dogs": 20})
    words = [*FOLDERS, f"data.dir={pictures}"]
    home = train_half_an_epoch(tmp_path / "run", monkeypatch, *words)
    assert [file.name for file in (home / "checkpoints").iterdir()] == ["stopped.ckpt"]
    new(pictures, {"birds": 3})
    tested = choose(home, name="stopped.ckpt")
    assert tested.is_own_split and names_of(tested, pictures) == splits_of(home)["test"]


@pytest.mark.parametrize("state", [3, {"train": 3}, {"train": torch.zeros(2)}, []])
def test_a_record_that_was_changed_is_refused(run, state):
    home, _ = run
    file = home / "checkpoints" / "best.ckpt"
    content = torch.load(file, weights_only=True)
    content["PictureData"] = state
    torch.save(content, file)
    with pytest.raises(UserError, match="record of its split"):
        choose(home)


def test_shapes_of_the_same_and_of_another_seed(tmp_path):
    home = train(tmp_path / "run", *SMALL, "data=shapes", "data.pictures=60")
    own = choose(home)
    assert own.is_own_split and len(own.data.dataset.splits["test"]) == 8
    fewer = choose(home, "data.split.test=5")
    assert fewer.is_own_split and len(fewer.data.dataset.splits["test"]) == 8
    more = choose(home, "data.pictures=120")  # the same pictures and more of them
    assert not more.is_own_split and len(more.data.dataset.splits["test"]) == 15
    other = choose(home, "seed=1")
    assert not other.is_own_split and len(other.data.dataset.splits["test"]) == 8
    assert not np.array_equal(
        own.data.dataset.splits["test"].images, other.data.dataset.splits["test"].images
    )


def test_classes_in_another_order_are_matched_by_name(tmp_path):
    """Those of shapes are not sorted; class folders are."""
    home = train(tmp_path / "run", *SMALL, "data=shapes", "data.pictures=60")
    names = read_checkpoint(home / "checkpoints" / "best.ckpt")["hyper_parameters"]["class_names"]
    assert list(names) != sorted(names)
    other = new(tmp_path / "other", dict.fromkeys(names[:3], 2))
    tested = choose(home, "data=image_folder", f"data.dir={other}", "data.size=16")
    test = tested.data.dataset.splits["test"]
    for name, label in zip(test.names, test.labels.tolist(), strict=True):
        assert Path(name).parent.name == names[label]


# ------------------------------------------------------------ weights that know pictures already


def started_from(home: Path, seed: int, test: int | None = None):
    """The data of a run that starts from another one's weights."""
    weights = home / "checkpoints" / "best.ckpt"
    told = read_checkpoint(weights)["hyper_parameters"]["config"]
    config = replace_values(
        restore_config(told, str(weights)),
        {"seed": seed, "data.split.test": test, "model.weights": str(weights)},
    )
    return build_data(config, read_used_digests(config, None))


def test_a_run_from_anothers_weights_does_not_test_what_those_have_seen(run):
    home, pictures = run
    same = started_from(home, seed=0)
    assert {*map(str, same.dataset.splits["test"].names)} == {
        str(pictures / name) for name in splits_of(home)["test"]
    }
    assert same.state_dict()["before"].numel() == 34


def test_of_a_split_drawn_anew_only_unseen_pictures_are_tested(run):
    home, pictures = run
    data = started_from(home, seed=3, test=20)
    tested = {
        Path(name).relative_to(pictures).as_posix() for name in data.dataset.splits["test"].names
    }
    assert tested and tested < splits_of(home)["test"]
    assert (
        len(tested)
        == data.index.counts["test"].sum()
        == (data.index.listing.splits == "test").sum()
    )
    (left,) = [line for line in data.index.notes if "left out" in line]
    assert f"{20 - len(tested)} of 20 test images" in left and "whose weights" in left
    assert any("validation results look better than they are" in line for line in data.index.notes)


def test_nothing_unseen_to_test_is_refused(run):
    home, pictures = run
    for name in splits_of(home)["test"]:
        (pictures / name).unlink()
    with pytest.raises(UserError, match="5 of 5 test images.*: use the data and seed of that"):
        started_from(home, seed=0)


def test_a_run_that_starts_from_anothers_weights_end_to_end(run, at, capsys):
    home, pictures = run
    best = home / "checkpoints" / "best.ckpt"
    second = train(
        at / "second", *FOLDERS, f"data.dir={pictures}", f"model.weights={best}", "seed=3",
        "data.split.test=20",
    )  # fmt: skip
    said = capsys.readouterr().out
    assert "whose weights this one starts from and are left out" in said
    unseen = splits_of(second)["test"]
    assert unseen and unseen < splits_of(home)["test"]
    tested = choose(second)
    assert tested.is_own_split and names_of(tested, pictures) == unseen
    # what the first run has seen is no test of the second either, wherever it lies
    other = new(at / "other", {"cats": 2, "dogs": 2})
    seen = sorted(
        splits_of(home)["train"] - splits_of(second)["train"] - splits_of(second)["validation"]
    )
    shutil.copy(pictures / seen[0], other / "cats" / "seen.png")
    tested = choose(second, f"data.dir={other}")
    assert len(tested.left_out) == 1 and "earlier run" in tested.left_out[0][1]


def test_a_resumed_run_remembers_what_its_weights_have_seen(run, at, monkeypatch):
    """By its own checkpoint: the file that it started from may be gone."""
    home, pictures = run
    best = home / "checkpoints" / "best.ckpt"
    words = [*FOLDERS, f"data.dir={pictures}", f"model.weights={best}", "seed=3"]
    second = train_half_an_epoch(at / "second", monkeypatch, *words, "data.split.test=20")
    before = splits_of(second)
    best.unlink()
    assert main(["resume", f"run={second}"]) == 0
    assert splits_of(second) == before and len(before["test"]) < 20
    record = torch.load(second / "checkpoints" / "best.ckpt", weights_only=True)["PictureData"]
    assert len(record["before"]) == 34


# ------------------------------------------------------------------------------ copies in training


def test_a_copy_of_a_training_picture_is_no_test_picture(tmp_path, capsys):
    """Given splits, two copies: one in training, one in validation."""
    counts = {f"{s}/{c}": n for s, n in (("train", 6), ("validation", 3), ("test", 3))
              for c in ("cats", "dogs")}  # fmt: skip
    pictures = draw_folder(tmp_path / "pictures", counts)
    shutil.copy(pictures / "train/cats/0.png", pictures / "test/cats/copy.png")
    shutil.copy(pictures / "validation/dogs/0.png", pictures / "test/dogs/copy.png")
    home = train(tmp_path / "run", *FOLDERS, f"data.dir={pictures}")
    assert "2 test images are left out" in capsys.readouterr().out
    assert len(splits_of(home)["test"]) == 6
    summary = json.loads((home / "summary.json").read_text())
    tested = choose(home)
    assert names_of(tested, pictures) == splits_of(home)["test"] and tested.is_own_split
    assert main(["eval", f"run={home}"]) == 0
    again = json.loads((home / "summary.json").read_text())["evaluations"]["best.ckpt"]["test"]
    assert again == summary["test"]
