"""Several classes per image: from tables, from copies and links in class folders; no regression."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from convlens.core.errors import UserError
from convlens.data.index.listing import list_images
from convlens.data.index.several import pick_rarest, refuse_numbers
from convlens.data.index.split_file import read_split, write_split
from convlens.data.index.splits import resolve_splits
from convlens.data.index.twins import merge_twins
from support.tiny import draw_folder

ROWS = {"0.png": "cat|dog", "1.png": "dog", "2.png": "bird|cat", "3.png": "dog|bird|cat"}
CLASSES = ("bird", "cat", "dog")


@pytest.fixture
def flat(tmp_path) -> Path:
    return draw_folder(tmp_path, {"pictures": 4}) / "pictures"


def as_sets(listing) -> dict[str, set[str]]:
    """Name -> classes, from the matrix."""
    return {
        os.path.basename(listing.files.name(row)): {
            listing.class_names[k] for k in np.flatnonzero(listing.present[row])
        }
        for row in range(len(listing))
    }


WANTED = {name: set(text.split("|")) for name, text in ROWS.items()}


def write_table(folder: Path, header: str, rows: list[str]) -> str:
    (folder / "labels.csv").write_text("\n".join([header, *rows]) + "\n")
    return "labels.csv"


@pytest.mark.parametrize("spaces", ["{}", " {} "])
def test_a_column_of_labels(flat, spaces):
    rows = [f"{name},{spaces.format(text)}" for name, text in ROWS.items()]
    listing = list_images(flat, csv=write_table(flat, "file,labels", rows), several=True)
    assert listing.class_names == CLASSES and as_sets(listing) == WANTED


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_column_for_each_class(flat, separator):
    head = separator.join(["file", "dog", "cat", "bird"])
    rows = [
        separator.join([name, *("01"[kind in text.split("|")] for kind in ("dog", "cat", "bird"))])
        for name, text in ROWS.items()
    ]
    listing = list_images(flat, csv=write_table(flat, head, rows), several=True)
    assert listing.class_names == CLASSES and as_sets(listing) == WANTED


def test_splits_of_the_table_are_used(flat):
    rows = ["0.png,cat|dog,train", "1.png,cat|dog,train", "2.png,dog|cat,val", "3.png,cat|dog,test"]
    listing = list_images(flat, csv=write_table(flat, "file,labels,split", rows), several=True)
    assert listing.splits.tolist() == ["train", "train", "validation", "test"]


def test_every_split_needs_every_class(flat):
    rows = ["0.png,cat|dog,train", "1.png,cat,train", "2.png,cat,val", "3.png,cat|dog,test"]
    with pytest.raises(UserError, match="'dog' has images in train but none in validation"):
        list_images(flat, csv=write_table(flat, "file,labels,split", rows), several=True)


@pytest.mark.parametrize(
    ("header", "row", "said"),
    [
        ("file,labels", "0.png,", "line 2: the image has no class"),
        ("file,labels", "0.png, | ", "line 2: the image has no class"),
        ("file,cat,dog", "0.png,0,0", "line 2: the image has no class"),
        ("file,cat,dog", "0.png,1,0.5", "column 'dog' is '0.5'"),
        ("file,cat,dog", "0.png,1,", "column 'dog' is ''"),
        ("file,label", "0.png,cat", "column 'label' is 'cat': expected 0 or 1"),
    ],
)
def test_a_table_that_does_not_say_the_classes_is_refused(flat, header, row, said):
    with pytest.raises(UserError, match=said):
        list_images(flat, csv=write_table(flat, header, [row]), several=True)


def test_an_image_counts_for_its_rarest_class():
    present = np.array([[1, 1, 0], [1, 0, 1], [1, 0, 0], [0, 1, 1], [1, 1, 1]], bool)
    # five images: 4, 3 and 3 of each class; the first of equally rare ones
    assert pick_rarest(present).tolist() == [1, 2, 0, 1, 1]


def test_labels_are_rarest_also_from_a_table(flat):
    rows = [f"{name},{text}" for name, text in ROWS.items()]
    listing = list_images(flat, csv=write_table(flat, "file,labels", rows), several=True)
    names = [listing.class_names[label] for label in listing.labels]
    # bird twice, cat three times, dog three times
    found = {os.path.basename(listing.files.name(n)): name for n, name in enumerate(names)}
    assert found == {"0.png": "cat", "1.png": "dog", "2.png": "bird", "3.png": "bird"}


@pytest.mark.parametrize("how", ["copy", "symlink", "hard link"])
def test_a_file_in_several_class_folders_is_one_image(tmp_path, how):
    root = draw_folder(tmp_path / "pictures", {"cat": 3, "dog": 3, "tree": 2})
    source = root / "cat" / "0.png"
    for target in (root / "dog" / "same.png", root / "tree" / "same.png"):
        if how == "copy":
            shutil.copy(source, target)
        elif how == "symlink":
            target.symlink_to(source)
        else:
            os.link(source, target)
    listing = merge_twins(list_images(root))
    assert len(listing) == 8
    sets = {listing.files.name(n): set(listing.describe_label(n).split("|")) for n in range(8)}
    assert sets["cat/0.png"] == {"cat", "dog", "tree"}
    assert all(sets[name] == {name.split("/")[0]} for name in sets if name != "cat/0.png")
    assert "1 of 8 images have several classes" in listing.notes[-1]


def test_twins_in_other_splits_stay_apart(tmp_path):
    counts = {f"{split}/{name}": 2 for split in ("train", "test") for name in ("cat", "dog")}
    root = draw_folder(tmp_path / "pictures", counts)
    for split in ("train", "test"):
        shutil.copy(root / "train" / "cat" / "0.png", root / split / "dog" / "same.png")
    listing = merge_twins(list_images(root))
    sets = {listing.files.name(n): listing.describe_label(n) for n in range(len(listing))}
    assert sets["train/cat/0.png"] == "cat|dog" and "train/dog/same.png" not in sets
    assert sets["test/dog/same.png"] == "dog"


def test_the_split_file_keeps_all_classes(flat, tmp_path):
    rows = [f"{name},{text}" for name, text in ROWS.items()]
    listing = list_images(flat, csv=write_table(flat, "file,labels", rows), several=True)
    split = resolve_splits(listing, validation=0, test=0, seed=0)
    write_split(tmp_path / "split.csv", split)
    assert "cat|dog" in (tmp_path / "split.csv").read_text()
    assert read_split(tmp_path / "split.csv", listing).splits.tolist() == split.splits.tolist()
    other = [*rows[:3], "3.png,dog|bird"]
    changed = list_images(flat, csv=write_table(flat, "file,labels", other), several=True)
    with pytest.raises(UserError, match=r"3.png is 'bird\|dog' in"):
        read_split(tmp_path / "split.csv", changed)


def test_numbers_to_predict_are_refused(flat):
    rows = [f"{n}.png,{value}" for n, value in enumerate(("3.75", "12.5", "8", "0.25"))]
    with pytest.raises(UserError, match="convlens predicts classes, not a number") as error:
        list_images(flat, csv=write_table(flat, "file,label", rows))
    assert "one output" in str(error.value)


@pytest.mark.parametrize(
    "labels",
    [["0", "1", "2", "3"], ["1.5", "2.5", "1.5", "2.5", "1.5"], ["3.75", "cat"], ["2024", "7"]],
)
def test_classes_that_look_like_numbers_are_not(labels):
    refuse_numbers(labels, Path("labels.csv"))
