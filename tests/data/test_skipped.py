"""data.on_error=skip: what is skipped is in no count, no weight, no table and no plan."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

import convlens.experiment.train
from convlens.cli.main import main
from convlens.config.compose import compose
from convlens.core.errors import UserError
from convlens.data.datamodule import PictureData
from convlens.data.index.digests import file_digest
from convlens.data.pixels.dataset import Images
from convlens.data.pixels.decode import Recipe, decode_image
from convlens.data.probes import load_user_probes
from support.tiny import TINY

SPLITS = ("train", "validation", "test")


def words(folder: Path, *more: str) -> list[str]:
    return ["data=image_folder", f"data.dir={folder}", "data.on_error=skip", "callbacks=none",
            "training.epochs=1", *TINY[1:], *more]  # fmt: skip


@pytest.fixture
def folder(folder_of_two) -> Path:
    """20 training, 8 validation and 8 test images, of which 5, 1 and 1 are broken."""
    for name in (*(f"train/cats/{i}" for i in range(5)), "validation/dogs/0", "test/cats/3"):
        (folder_of_two / f"{name}.png").write_bytes(b"<html>404</html>")
    return folder_of_two


def rows(file: Path) -> list[dict[str, str]]:
    with open(file, newline="") as text:
        return list(csv.DictReader(text))


def check_pixels(pictures: Images) -> None:
    """Each image is that of its file."""
    for row, name in enumerate(pictures.names):
        wanted = decode_image(Path(name), Recipe(16, 16))
        assert (pictures.pixels(np.array([row]))[0] == wanted).all()


def test_a_run_counts_weighs_and_lists_only_what_it_trains_on(folder, tmp_path):
    run = tmp_path / "run"
    balanced = "training.class_weights=balanced"
    config = compose(words(folder, f"run_dir={run}", balanced, "scheduler=constant"))
    _, summary = convlens.experiment.train.train(config)
    # 5 cats and 10 dogs are left: 15 / (2 · 5) and 15 / (2 · 10)
    kept = yaml.safe_load((run / "config.yaml").read_text())
    assert kept["training"]["class_weights"] == [1.5, 0.75]
    assert len(summary["skipped"]) == 7
    facts = json.loads((run / "data.json").read_text())
    assert facts["images"] == {"train": [5, 10], "validation": [4, 3], "test": [3, 4]}
    assert facts["skipped"]["count"] == 7 and len(facts["skipped"]["first"]) == 5
    assert [count for _, count in facts["skipped"]["reasons"]] == [7]
    for table in ("split.csv", "pictures.csv"):
        listed = [row["file"] for row in rows(run / table)]
        assert len(listed) == 15 + 7 + 7
        assert not {"train/cats/0.png", "validation/dogs/0.png", "test/cats/3.png"} & set(listed)
    assert main(["eval", f"run={run}"]) == 0
    tested = [row["file"] for row in rows(run / "evaluation" / "best" / "predictions.csv")]
    assert len(tested) == 7 and not any(file.endswith("cats/3.png") for file in tested)
    assert main(["resume", f"run={run}", "training.epochs=2"]) == 0
    assert json.loads((run / "data.json").read_text()) == facts


def test_plan_counts_what_a_run_will_train_on(folder, capsys):
    assert main(["plan", *words(folder, "training.batch_size=5")]) == 0
    said = capsys.readouterr().out
    counts = {
        cells[0]: [int(cell) for cell in cells[1:]]
        for line in said.splitlines()
        if (cells := re.findall(r"\w+", line)) and cells[0] in ("cats", "dogs", "all")
        and len(cells) == 4
    }  # fmt: skip
    assert counts == {"cats": [5, 4, 3], "dogs": [10, 3, 4], "all": [15, 7, 7]}
    assert "each 3 steps of 5 images" in said  # 15 images
    assert "7 broken images skipped" in said


@pytest.mark.parametrize("split", SPLITS)
def test_a_class_that_is_emptied_in_a_split_is_refused(folder_of_two, split, capsys, at):
    for file in (folder_of_two / split / "dogs").iterdir():
        file.write_bytes(b"")
    assert main(["train", *words(folder_of_two, "run_dir=run")]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"class 'dogs' without images in {split}" in said and "dogs/0.png" in said
    assert not (at / "run").exists()


def test_broken_files_alike_in_two_classes_are_no_contradicting_labels(folder):
    (folder / "train/dogs/0.png").write_bytes(b"<html>404</html>")
    data = PictureData(compose(words(folder)).data, seed=0, batch_size=4, eval_batch_size=4)
    assert [note for note in data.index.notes if "skipped" not in note] == []


def test_counts_pixels_digests_and_labels_belong_together(folder):
    data = PictureData(compose(words(folder)).data, seed=0, batch_size=4, eval_batch_size=4)
    listing = data.index.listing
    for split in SPLITS:
        pictures, mine = data.dataset.splits[split], listing.splits == split
        assert len(pictures) == mine.sum() == data.index.counts[split].sum()
        assert pictures.labels.tolist() == listing.labels[mine].tolist()
        assert list(pictures.names) == [str(file) for file in np.array(listing.files)[mine]]
        assert all(digest == file_digest(name) for digest, name in
                   zip(pictures.digests.tolist(), pictures.names, strict=True))  # fmt: skip
        check_pixels(pictures)


def test_a_leaked_test_picture_beside_a_broken_one(folder):
    content = (folder / "train/dogs/5.png").read_bytes()
    (folder / "test/dogs/0.png").write_bytes(content)
    data = PictureData(compose(words(folder)).data, seed=0, batch_size=4, eval_batch_size=4)
    pictures = data.dataset.splits["test"]
    names = [Path(name).relative_to(folder / "test").as_posix() for name in pictures.names]
    assert names == ["cats/0.png", "cats/1.png", "cats/2.png"] + [
        f"dogs/{i}.png" for i in (1, 2, 3)
    ]
    check_pixels(pictures)


def test_a_probe_of_ones_own_that_is_broken_is_left_out_too(folder, capsys):
    spec = compose(words(folder)).data
    files = [str(folder / "train/cats" / f"{i}.png") for i in (0, 7, 8)]
    probes = load_user_probes(files, ("cats", "dogs"), spec)
    assert [Path(source).name for source in probes.sources] == ["7.png", "8.png"]
    assert len(probes.images) == 2 and probes.labels.tolist() == [0, 0]
    assert "cats/0.png (its content" in capsys.readouterr().err
    with pytest.raises(UserError, match="none of 1 files is an image"):
        load_user_probes(files[:1], ("cats", "dogs"), spec)


def test_the_summary_names_what_was_skipped(folder, tmp_path):
    home, _ = convlens.experiment.train.train(compose(words(folder, f"run_dir={tmp_path / 'r'}")))
    summary = json.loads((home / "summary.json").read_text())
    assert sum("train/cats" in line for line in summary["skipped"]) == 5
