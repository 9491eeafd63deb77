"""Split folders, folds and years are no classes: understood where names are usual, or refused."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from convlens.config.compose import compose
from convlens.core.errors import UserError
from convlens.data.index.labels import parse_split
from convlens.data.index.listing import Listing, list_images

CATS_DOGS = ("cats/1.jpg", "cats/2.jpg", "dogs/1.jpg", "dogs/2.jpg")


def tree(root: Path, *parts: str, files: tuple[str, ...] = CATS_DOGS) -> Path:
    """``files`` below each of ``parts``; an image is never opened while listing."""
    for part in parts:
        for file in files:
            path = root / part / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"\xff\xd8\xff" + str(path).encode())
    return root


def refused(root: Path, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        list_images(root, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def as_typed(word: str) -> str:
    """``data.pattern`` after the program's own reading of a word that a message tells to type."""
    return compose(["data=image_folder", *shlex.split(f'"{word}"')]).data.pattern


def test_a_flat_folders_suggestion_works_as_it_is_printed(tmp_path):
    for sign in "._-":
        files = (f"cat{sign}1.jpg", f"cat{sign}2.jpg", f"dog{sign}1.jpg")
        message = refused(tree(tmp_path / f"by{sign}", "", files=files))
        (word,) = re.findall('try "([^"]+)"', message)
        found = list_images(tmp_path / f"by{sign}", pattern=as_typed(word))
        assert found.class_names == ("cat", "dog")


def by_split(listing: Listing) -> dict[str, int]:
    assert listing.class_names == ("cats", "dogs")
    assert all(f"/{listing.class_names[label]}/" in f"/{file}" for label, file in
               zip(listing.labels, listing.files.names(), strict=True))  # fmt: skip
    return {split: list(listing.splits).count(split) for split in sorted(set(listing.splits))}


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("training_set", "test_set"), ("train", "test")),  # the example
        (("Train", "VAL", "Testing"), ("train", "validation", "test")),
        (("TRAINING", "dev", "test"), ("train", "validation", "test")),
        (("training_data", "validation-data"), ("train", "validation")),
        (("TrainImages", "TestImages"), ("train", "test")),
        (("train2017", "val2017"), ("train", "validation")),
        (("seg_train", "seg_test"), ("train", "test")),
        (("entraînement", "validation", "test"), ("train", "validation", "test")),
        (("entrenamiento", "prueba"), ("train", "test")),
        (("训练集", "测试集"), ("train", "test")),
        (("train", "eval"), None),  # of validation and test, both lack
        (("train", "val", "eval"), ("train", "validation", "test")),
        (("train", "holdout", "test"), ("train", "validation", "test")),
    ],
)
def test_usual_names_of_splits(tmp_path, names, found):
    tree(tmp_path, *names)
    if found is None:
        assert "may hold validation or test images: call it" in refused(tmp_path)
    else:
        assert by_split(list_images(tmp_path)) == dict.fromkeys(found, 4)


@pytest.mark.parametrize("name", ["cats", "trainer", "tested", "evaluator", "valley", "set", "1"])
def test_other_names_are_no_splits(name):
    assert parse_split(name) is None


def test_a_class_with_a_splits_name_stays_a_class(tmp_path):
    tree(tmp_path, "", files=("training/1.jpg", "dev/1.jpg", "holdout/1.jpg", "boat/1.jpg"))
    assert list_images(tmp_path).class_names == ("boat", "dev", "holdout", "training")


def test_splits_wrapped_once_more_are_unwrapped_and_said(tmp_path):
    tree(tmp_path, "seg_train/seg_train", "seg_test/seg_test")
    found = list_images(tmp_path)
    assert by_split(found) == {"train": 4, "test": 4}
    assert "the classes of train are the folders in seg_train/seg_train/" in found.notes


@pytest.mark.parametrize("inner", ["", "training_set", "a/b"])
def test_one_folder_too_high_says_which_to_take(tmp_path, inner):
    splits = ("training_set", "test_set") if inner != "training_set" else ("training_set", "x")
    root = tmp_path / "archive" / inner if inner != "training_set" else tmp_path / "archive"
    tree(root, *splits)
    assert f"did you mean data.dir={root}?" in refused(tmp_path)


def test_splits_inside_the_classes(tmp_path):
    files = ("cats/train/1.jpg", "cats/test/2.jpg", "dogs/train/1.jpg", "dogs/test/2.jpg")
    found = list_images(tree(tmp_path, "", files=files))
    assert by_split(found) == {"train": 2, "test": 2}
    assert any("used as the splits" in note for note in found.notes)
    tree(tmp_path, "", files=("birds/1.jpg",))
    assert "has split folders (test, train), but other classes do not" in refused(tmp_path)


@pytest.mark.parametrize(
    "parts",
    [
        ("known", "unseen"),
        tuple(f"fold_{number}" for number in range(1, 6)),
        ("2019", "2020", "2021"),
        ("camera1", "camera2"),
        ("a/x", "b/y"),
        ("train/2019", "train/2020", "test/2019", "test/2020"),
    ],
)
def test_folders_of_the_same_names_are_refused_with_the_way_out(tmp_path, parts):
    tree(tmp_path, *parts)
    message = refused(tmp_path)
    assert "contain the same folders (cats, dogs)" in message
    low, high = map(as_typed, re.findall('"([^"]+)"', message))
    assert (low, high) == ("*/{class}/*", "{class}/*")
    lower = list_images(tmp_path, pattern=low)
    assert lower.class_names == ("cats", "dogs") and len(lower) == 4 * len(parts)
    upper = list_images(tmp_path, pattern=high)
    assert upper.class_names == tuple(sorted({p.removeprefix("train/").removeprefix("test/")
                                              .split("/")[0] for p in parts}))  # fmt: skip


def test_folds_that_lack_a_class_are_refused_too(tmp_path):
    tree(tmp_path, "fold_1", "fold_2")
    tree(tmp_path, "fold_3", files=("cats/1.jpg",))
    assert "fold_3" in refused(tmp_path)


def test_folders_inside_classes_that_are_no_splits_still_belong_to_the_class(tmp_path):
    kinds = ("cats/siamese", "cats/tabby", "cats/other", "dogs/pug", "dogs/husky", "dogs/other")
    tree(tmp_path, *kinds, files=("1.jpg",))
    assert list_images(tmp_path).class_names == ("cats", "dogs")
    # Tiny ImageNet: the lower level would be a single class
    tree(tmp_path / "tiny", "n01/images", "n02/images", files=("1.jpg", "2.jpg"))
    found = list_images(tmp_path / "tiny")
    assert found.class_names == ("n01", "n02") and not found.notes


@pytest.mark.parametrize("name", ["masks", "old", "validation_copy"])
def test_a_folder_of_folders_named_like_classes_is_no_class(tmp_path, name):
    tree(tmp_path, "", name)
    message = refused(tmp_path)
    assert (
        f"{tmp_path / name} contains folders named like classes beside it (cats, dogs)" in message
    )
    assert ("data.masks" in message) == (name == "masks")


def test_images_and_masks_side_by_side(tmp_path):
    tree(tmp_path, "images", "masks")
    assert "set data.masks to it" in refused(tmp_path)


def test_a_class_that_fell_into_another(tmp_path):
    tree(tmp_path, "", "cats", files=("cats/1.jpg", "dogs/1.jpg"))  # cats/cats, cats/dogs
    assert "named like classes beside it (dogs)" in refused(tmp_path)


def test_what_is_only_tested_needs_no_train_folder(tmp_path):
    tree(tmp_path, "test_set", "holdout")
    assert by_split(list_images(tmp_path, for_test=True)) == {"test": 4, "validation": 4}
    assert "no train/ folder" in refused(tmp_path)


def test_pictures_beside_the_splits_belong_to_none(tmp_path):
    tree(tmp_path, "training_set", "test_set")
    tree(tmp_path, "single_prediction", files=("1.jpg",))
    assert "is beside training_set/ and belongs to no split" in refused(tmp_path)


def test_two_folders_for_one_split(tmp_path):
    tree(tmp_path, "train_1", "train_2", "test")
    assert "are both the train split: keep one" in refused(tmp_path)


def test_a_tables_splits_by_their_usual_names(tmp_path):
    tree(tmp_path, "")
    rows = ("Training", "dev", "Training", "dev")
    lines = [f"{file},{file[:4]},{split}" for file, split in zip(CATS_DOGS, rows, strict=True)]
    (tmp_path / "t.csv").write_text("file,label,split\n" + "\n".join(lines) + "\n")
    assert by_split(list_images(tmp_path, csv="t.csv")) == {"train": 2, "validation": 2}
