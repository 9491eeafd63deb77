"""Dividing images: exact, proportional, seeded; written down; leaks found."""

from __future__ import annotations

import numpy as np
import pytest

from convlens.core.errors import UserError
from convlens.data.index.labels import SPLITS
from convlens.data.index.listing import Listing, list_images
from convlens.data.index.split_file import read_split, write_split
from convlens.data.index.splits import assign_splits, resolve_splits
from convlens.data.index.twins import find_duplicates, find_twins


def labels_of(*sizes: int) -> np.ndarray:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(0).permutation(labels)


def count(assigned: np.ndarray, name: str) -> int:
    return int((assigned == name).sum())


@pytest.fixture
def folder(tmp_path):
    for name, pictures in (("cats", 20), ("dogs", 10)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(pictures):
            (tmp_path / "data" / name / f"{number}.jpg").write_text(f"{name} {number}")
    return tmp_path / "data"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("validation", "test", "wanted"),
    [(0.15, 0.15, (75, 75)), (100, 0, (100, 0)), (0, 0.29, (0, 145)), (1.0e2, 30, (100, 30))],
)
def test_totals_are_exact_and_classes_proportional(validation, test, wanted, seed):
    sizes = (317, 101, 53, 29)
    labels = labels_of(*sizes)
    assigned = assign_splits(labels, validation=validation, test=test, seed=seed)
    assert (count(assigned, "validation"), count(assigned, "test")) == wanted
    for name, total in zip(("validation", "test"), wanted, strict=True):
        for label, size in enumerate(sizes):
            got = int(((assigned == name) & (labels == label)).sum())
            assert abs(got - total * size / 500) < 1


def test_fractions_are_of_all_pictures_and_round_half_up():
    assigned = assign_splits(labels_of(25, 25), validation=0.29, test=0.5, seed=0)
    assert count(assigned, "test") == 25 and count(assigned, "validation") == 15  # of 14.5


def test_pure_function_of_labels_shares_and_seed():
    labels = labels_of(40, 60)
    first = assign_splits(labels, validation=0.2, test=0.2, seed=3)
    np.random.seed(99)  # global state must not matter
    assert (assign_splits(labels, validation=0.2, test=0.2, seed=3) == first).all()
    assert (assign_splits(labels, validation=0.2, test=0.2, seed=4) != first).any()
    more = assign_splits(labels, validation=0.4, test=0.2, seed=3)
    assert ((more == "test") == (first == "test")).all()
    assert (more[first == "validation"] == "validation").all()


def test_split_is_the_same_on_every_machine():
    """Pinned: numpy promises PCG64's words for ever; another answer would change users' splits."""
    assigned = assign_splits(np.array([0, 1] * 8), validation=0.25, test=0.25, seed=7)
    signs = {"train": ".", "validation": "v", "test": "t"}
    assert "".join(signs[name] for name in assigned.tolist()) == "v..t.vttv...t..v"


def test_all_training_when_nothing_is_asked():
    assert set(assign_splits(np.zeros(3, int), validation=0, test=0, seed=0)) == {"train"}


def test_rare_classes_are_in_every_split():
    labels = labels_of(300, 3, 4)
    assigned = assign_splits(labels, validation=0.1, test=0.1, seed=0)
    for name in SPLITS:
        assert set(labels[assigned == name]) == {0, 1, 2}
    assert count(assigned, "validation") == count(assigned, "test") == 31


@pytest.mark.parametrize(
    ("sizes", "validation", "test", "answer"),
    [
        ((10, 2), 0.2, 0.2, "class 1 has 2 images, too few for train and validation and test"),
        ((10, 10), 0.6, 0.4, "leave 0 of 20 for training"),
        ((10, 10), 30, 0, "leave 0 of 20 for training"),
        ((10, 10, 10), 2, 0, "validation would get 2 images for 3 classes"),
        ((10, 10), 1.5, 0, "validation=1.5: expected a fraction below 1, or a whole number"),
        ((10, 10), 0.1, -1, "test=-1"),
        ((10, 10), float("nan"), 0, "validation=nan"),
        ((10, 10), "0.1", 0, "validation=0.1"),
    ],
)
def test_impossible_splits_are_refused_in_one_line(sizes, validation, test, answer):
    with pytest.raises(UserError) as caught:
        assign_splits(labels_of(*sizes), validation=validation, test=test, seed=0)
    assert answer in str(caught.value)


@pytest.mark.parametrize("seed", [-1, 1.5, None, True])
def test_bad_seed(seed):
    with pytest.raises(UserError, match="seed="):
        assign_splits(labels_of(10, 10), validation=0.1, test=0.1, seed=seed)


def test_extreme_sizes_still_leave_one_of_each_class_for_training():
    rng = np.random.default_rng(1)
    for _ in range(200):
        sizes = rng.integers(3, 40, size=rng.integers(2, 8))
        total, classes = sizes.sum(), len(sizes)
        test = int(rng.integers(classes, total - 2 * classes + 1))
        validation = int(rng.integers(classes, total - classes - test + 1))
        labels = labels_of(*sizes)
        assigned = assign_splits(labels, validation=validation, test=test, seed=0)
        assert count(assigned, "validation") == validation and count(assigned, "test") == test
        for name in SPLITS:
            assert len(np.unique(labels[assigned == name])) == classes


def test_resolve_fills_only_what_is_missing(folder, tmp_path):
    listing = list_images(folder)
    full = resolve_splits(listing, validation=0.2, test=0.1, seed=0)
    assert [count(full.splits, name) for name in SPLITS] == [21, 6, 3]
    for present, wanted in ((("train",), [21, 6, 3]), (("train", "test"), [22, 5, 3])):
        splits = np.where(full.splits == "test", "test", "train")
        if "test" not in present:
            splits = np.full(len(full), "train")
        given = Listing(full.files, full.labels, full.class_names, splits, full.directory)
        found = resolve_splits(given, validation=0.2, test=0.1, seed=0)
        assert [count(found.splits, name) for name in SPLITS] == wanted
    again = resolve_splits(full, validation=0.5, test=0.5, seed=9)
    assert (again.splits == full.splits).all()


def test_class_name_in_the_error(folder):
    for file in sorted((folder / "dogs").iterdir())[2:]:
        file.unlink()
    with pytest.raises(UserError, match="class 'dogs' has 2 images"):
        resolve_splits(list_images(folder), validation=0.2, test=0.2, seed=0)


# ------------------------------------------------------------------------------------ split files


def test_written_and_read_back(folder, tmp_path):
    (folder / "cats" / ' odd, "name" é.jpg').write_text("x")
    full = resolve_splits(list_images(folder), validation=5, test=5, seed=0)
    path = tmp_path / "split.csv"
    write_split(path, full)
    assert path.read_text(encoding="utf-8").splitlines()[0] == "file,label,split"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "split.csv"]
    found = read_split(path, list_images(folder))
    assert (found.splits == full.splits).all()


def test_split_file_is_a_valid_table_of_labels(folder, tmp_path):
    full = resolve_splits(list_images(folder), validation=5, test=5, seed=0)
    write_split(tmp_path / "split.csv", full)
    table = list_images(folder, csv=tmp_path / "split.csv")
    order = [table.files.index(file) for file in full.files]
    assert (table.splits[order] == full.splits).all()
    assert (table.labels[order] == full.labels).all()


def test_changed_pictures_are_noticed(folder, tmp_path):
    path = tmp_path / "split.csv"
    write_split(path, resolve_splits(list_images(folder), validation=5, test=5, seed=0))
    (folder / "cats" / "new.jpg").write_text("new")
    with pytest.raises(UserError, match=r"cats/new\.jpg is new since the split file"):
        read_split(path, list_images(folder))
    (folder / "cats" / "new.jpg").unlink()
    (folder / "dogs" / "0.jpg").unlink()
    with pytest.raises(UserError, match=r"dogs/0\.jpg is gone"):
        read_split(path, list_images(folder))


def test_damaged_split_files(folder, tmp_path):
    path, listing = tmp_path / "split.csv", list_images(folder)
    write_split(path, resolve_splits(listing, validation=5, test=5, seed=0))
    good = path.read_text()
    for text, answer in (
        (good.replace("cats/0.jpg,cats", "cats/0.jpg,dogs"), "restore the labels"),
        (good.replace("train", "trial"), "split 'trial'"),
        (good.replace("file,label,split", "file,label,part"), "no column 'split'"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=answer):
            read_split(path, listing)


def test_split_file_whose_parent_is_a_file(folder, tmp_path):
    (tmp_path / "file").write_text("")
    full = resolve_splits(list_images(folder), validation=5, test=5, seed=0)
    with pytest.raises(UserError, match="cannot write the split file"):
        write_split(tmp_path / "file" / "split.csv", full)


# ------------------------------------------------------------------------------------- duplicates


def test_duplicates_across_splits_only(tmp_path):
    content = {
        "train/a/1": "same", "train/a/2": "same", "validation/a/1": "same", "test/b/1": "same",
        "train/b/1": "size", "test/a/1": "also", "validation/b/1": "", "train/b/2": "",
    }  # fmt: skip
    for name, text in content.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.jpg").write_text(text)
    listing = list_images(tmp_path)
    found = [
        (listing.files.name(first), listing.splits[first],
         listing.files.name(second), listing.splits[second])
        for second, first in find_duplicates(listing, find_twins(listing))
    ]  # fmt: skip
    assert found == [
        ("train/a/1.jpg", "train", "validation/a/1.jpg", "validation"),
        ("train/a/1.jpg", "train", "test/b/1.jpg", "test"),
    ]


def test_no_duplicates_without_splits(folder):
    listing = list_images(folder)
    assert find_duplicates(listing, find_twins(listing)) == []
