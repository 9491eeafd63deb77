"""Very many files in little memory: the same paths, and a cost that grows with them alone."""

from __future__ import annotations

import os
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from convlens.data.index import listing as listing_module
from convlens.data.index.digests import Digest, digest
from convlens.data.index.files import Files, Texts
from convlens.data.index.listing import list_images
from convlens.data.index.split_file import read_split, write_split
from convlens.data.index.splits import assign_splits, resolve_splits
from convlens.data.index.twins import find_duplicates, find_twins

NAMES = ["a/1.jpg", "a/deep/2.jpg", "b/ünï.jpg", "b/字.png", "b/..odd.jpg"]


@pytest.mark.parametrize("directory", ["pics", "/pics/of/me", "", "/"])
def test_paths_come_back_as_they_were(directory):
    root = Path(directory)
    paths = [root / name for name in NAMES]
    files = Files.of(paths, root)
    assert list(files) == paths and len(files) == 5
    assert [files[i] for i in range(-5, 5)] == paths + paths
    assert list(files.names()) == [files.name(i) for i in range(5)] == NAMES
    assert list(files.byte_paths()) == [os.fsencode(path) for path in paths]
    assert list(files.absolute()) == [os.path.abspath(path) for path in paths]
    assert files.index(paths[3]) == 3 and root / "c.jpg" not in files
    with pytest.raises(IndexError):
        files[5]


def test_files_outside_and_names_that_are_no_text():
    odd = Path(os.fsdecode(b"/data/caf\xe9.jpg"))  # Latin-1, as old archives have it
    paths = [Path("/data/a.jpg"), odd, Path("/elsewhere/x/../b.jpg"), Path("/data/../c.jpg")]
    files = Files.of(paths, "/data")
    assert list(files) == paths
    assert list(files.byte_paths()) == [os.fsencode(path) for path in paths]
    assert list(files.absolute()) == [os.path.abspath(path) for path in paths]
    assert files.name(2) == "/elsewhere/b.jpg" and files.name(0) == "a.jpg"


def test_rows_of_rows():
    files = Files.of([f"{n}.jpg" for n in range(10)])
    some = files[np.array([7, 2, 9, 4])]
    assert [path.stem for path in some] == ["7", "2", "9", "4"]
    assert [path.stem for path in some[1:][np.array([2, 0])]] == ["4", "2"]
    assert [path.stem for path in some[::-1]] == ["4", "9", "2", "7"] and some[-1].stem == "4"
    assert list(Texts(some)) == ["7.jpg", "2.jpg", "9.jpg", "4.jpg"]
    assert Texts(some)[1] == "2.jpg" and list(Texts(some)[1:3]) == ["2.jpg", "9.jpg"]
    assert len(files[np.array([], int)]) == 0


@pytest.mark.parametrize("count", [0, 1, 4095, 4096, 4097])
def test_the_digest_of_a_stream_is_that_of_the_list(count):
    names, numbers = [f"/ü/{n}.jpg" for n in range(count)], [[n, -n] for n in range(count)]
    streamed = Digest("a", {"b": 1})
    streamed.add_all(iter(names))
    assert streamed.hexdigest() == digest("a", {"b": 1}, names)
    both = streamed.copy()
    both.add_all(tuple(pair) for pair in numbers)
    assert both.hexdigest() == digest("a", {"b": 1}, names, numbers)
    assert streamed.hexdigest() == digest("a", {"b": 1}, names)
    assert Digest().hexdigest() == digest()


# ------------------------------------------------------------------------------------------- cost


def tree(root: Path, pictures: int, classes: int) -> Path:
    """Empty folders and files enough: indexing never decodes."""
    for number in range(pictures):
        folder = root / f"class_{number % classes:04}"
        folder.mkdir(parents=True, exist_ok=True)
        # all of one size, as among very many photographs
        (folder / f"{number:07}.jpg").write_bytes(b"%07d" % number)
    return root


def whole_index(root: Path):
    found = resolve_splits(list_images(root), validation=0.15, test=0.15, seed=0)
    assert find_duplicates(found, find_twins(found)) == []
    write_split(root.parent / "split.csv", found)
    assert (read_split(root.parent / "split.csv", found).splits == found.splits).all()
    return found


def kept_and_peak(root: Path) -> tuple[int, int]:
    whole_index(root)  # imports, caches of the interpreter
    tracemalloc.start()
    try:
        found = whole_index(root)
        kept, peak = tracemalloc.get_traced_memory()
        assert len(found)
    finally:
        tracemalloc.stop()
    return kept, peak


def test_memory_of_a_picture_is_its_name_and_some_numbers(tmp_path):
    sizes = 1000, 4000
    kept, peak = zip(*(kept_and_peak(tree(tmp_path / str(n) / "d", n, 20)) for n in sizes),
                     strict=True)  # fmt: skip
    more = sizes[1] - sizes[0]
    # 22 letters, where they start, the label, the split; a Path alone would be 500
    assert (kept[1] - kept[0]) / more < 100
    assert (peak[1] - peak[0]) / more < 300


def test_every_file_is_asked_once_by_each_step_whatever_the_number_of_classes(
    tmp_path, monkeypatch
):
    calls = Counter()

    def counted(name, function):
        def call(*args, **kwargs):
            calls[name] += 1
            return function(*args, **kwargs)

        return call

    for name in ("stat", "open", "pread", "scandir"):
        monkeypatch.setattr(os, name, counted(name, getattr(os, name)))
    found = {}
    for classes in (2, 40):
        root = tree(tmp_path / str(classes) / "d", 400, classes)
        calls.clear()
        listing = resolve_splits(list_images(root), validation=0.15, test=0.15, seed=0)
        find_duplicates(listing, find_twins(listing))
        found[classes] = Counter(calls)
    for classes, count in found.items():
        assert count["open"] == count["pread"] == 400
        # one an image; besides, a few for each folder
        assert 400 <= count["stat"] <= 400 + 4 * classes + 10
        assert count["scandir"] <= 2 * classes + 10
        assert count["scandir"] > 0


def test_names_are_looked_through_once_not_once_a_class(tmp_path, monkeypatch):
    looked = []
    real = listing_module.Files.__init__

    def noted(self, directory, text, starts):
        looked.append(len(text))
        real(self, directory, text, starts)

    monkeypatch.setattr(listing_module.Files, "__init__", noted)
    for classes in (2, 40):
        looked.clear()
        resolve_splits(list_images(tree(tmp_path / str(classes), 400, classes)),
                       validation=0.15, test=0.15, seed=0)  # fmt: skip
        assert 1 <= len(looked) <= 3


def test_dividing_a_class_does_not_hang_on_the_others():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(50), 20))
    whole = assign_splits(labels, validation=0.2, test=0.2, seed=3)
    for label in (0, 17, 49):
        # by hand, as it is said: ranked by random keys, test first, then validation
        keys = np.random.PCG64(np.random.SeedSequence((3, label))).random_raw(20)
        ranked = np.flatnonzero(labels == label)[np.argsort(keys, kind="stable")]
        assert (whole[ranked[:4]] == "test").all()
        assert (whole[ranked[4:8]] == "validation").all()
        assert (whole[ranked[8:]] == "train").all()


def test_equal_ends_are_read_whole(tmp_path):
    """Files of one size whose last blocks are equal: only the whole tells twins from others."""
    tail = bytes(5000)
    for folder, head in (("train/a", b"1"), ("train/b", b"2"), ("validation/a", b"3"),
                         ("validation/b", b"2"), ("test/a", b"4"), ("test/b", b"5")):  # fmt: skip
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "x.jpg").write_bytes(head + tail)
    found = list_images(tmp_path)
    ((second, first),) = find_duplicates(found, find_twins(found))
    assert found.files.name(first) == "train/b/x.jpg"
    assert found.files.name(second) == "validation/b/x.jpg"


def test_a_split_file_in_another_order_is_read_too(tmp_path):
    full = resolve_splits(list_images(tree(tmp_path / "d", 60, 3)), validation=9, test=9, seed=0)
    write_split(tmp_path / "split.csv", full)
    head, *lines = (tmp_path / "split.csv").read_text().splitlines()
    (tmp_path / "split.csv").write_text("\n".join([head, *reversed(lines)]) + "\n")
    assert (read_split(tmp_path / "split.csv", full).splits == full.splits).all()
