"""``data=huggingface``: pixels, classes and splits are those that ``datasets`` reads itself."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convlens.core.errors import UserError
from support.annotated_made import load
from support.tiny import draw_folder

REASON = "the extra huggingface is not installed"
CLASSES = ["dog", "ant", "cat"]  # not in alphabetical order: numbers are those of the features
WORDS = ["data=huggingface", "data.size=24"]


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    module = pytest.importorskip("datasets", reason=REASON)
    monkeypatch.setattr(module.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    return module


def pixels_of(number: int, size: int = 24) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (size, size, 3)).astype(np.uint8)


def png(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels_of(number)).save(file, "PNG")
    return file.getvalue()


def part(datasets, numbers: range, **columns):
    """Return rows with an image, a label and a text; the label of row n is n modulo 3."""
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "picture": datasets.Image(),
            "kind": datasets.ClassLabel(names=CLASSES),
        }
    )
    rows = {
        "text": [f"row {n}" for n in numbers],
        "picture": [{"bytes": png(n), "path": f"{n}.png"} for n in numbers],
        "kind": [n % 3 for n in numbers],
    }
    return datasets.Dataset.from_dict({**rows, **columns}, features=features)


@pytest.fixture
def parts(datasets):
    return datasets.DatasetDict(
        {
            "train": part(datasets, range(18)),
            "validation": part(datasets, range(100, 106)),
            "test": part(datasets, range(200, 206)),
        }
    )


@pytest.fixture
def root(parts, tmp_path) -> Path:
    parts.save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def data(root: Path, *words: str):
    return load(*WORDS, f"data.dir={root}", *words)


def refused(*words: str) -> str:
    with pytest.raises(UserError) as error:
        load(*WORDS, *words)
    assert "\n" not in str(error.value)
    return str(error.value)


def check(module, parts) -> None:
    """Compare every image with the one that ``datasets`` decodes."""
    for split, images in module.dataset.splits.items():
        want = {np.asarray(row["picture"]).tobytes(): row["kind"] for row in parts[split]}
        names = parts[split].features["kind"].names
        assert len(images) == len(want)
        for row in range(len(images)):
            pixels = images.pixels(np.array([row]))[0]
            assert module.class_names[images.labels[row]] == names[want[pixels.tobytes()]]


def test_a_saved_data_set_with_its_splits_and_class_names(root, parts):
    module = data(root)
    assert module.class_names == ("ant", "cat", "dog")
    assert module.index.notes == []
    check(module, parts)


def test_parquet_files(datasets, parts, tmp_path):
    folder = tmp_path / "parquet"
    folder.mkdir()
    for split, rows in parts.items():
        rows.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    check(data(folder), parts)


def test_a_name_is_given_to_load_dataset(datasets, parts, tmp_path):
    """The hub needs a network, but takes the same way: a folder is a name, too."""
    folder = tmp_path / "parquet"
    folder.mkdir()
    for split, rows in parts.items():
        rows.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    check(load(*WORDS, f"data.hub={folder}"), parts)


def test_class_folders_are_used_where_they_are(datasets, tmp_path):
    folder = tmp_path / "pics"
    for split in ("train", "test"):
        draw_folder(folder / split, {"cats": 9, "dogs": 9}, seed=len(split))
    module = data(folder, "data.label_column=label")
    assert module.class_names == ("cats", "dogs")
    for split, images in module.dataset.splits.items():
        for row, name in enumerate(images.names):
            assert folder in Path(name).parents
            assert Path(name).parent.name == module.class_names[images.labels[row]]
            assert (split == "test") == ("test" in Path(name).parts)
            truth = np.asarray(Image.open(name))
            assert np.array_equal(images.pixels(np.array([row]))[0], truth)


def test_a_data_set_without_splits_is_split(datasets, tmp_path):
    part(datasets, range(40)).save_to_disk(tmp_path / "one")
    counts = data(tmp_path / "one").index.counts
    assert {split: int(count.sum()) for split, count in counts.items()} == {
        "train": 28, "validation": 6, "test": 6,
    }  # fmt: skip


def test_images_are_unpacked_once_and_again_after_a_change(root, parts, datasets):
    first = data(root).index.listing.files
    times = [file.stat().st_mtime_ns for file in first]
    again = data(root).index.listing.files
    assert list(again) == list(first)
    assert [file.stat().st_mtime_ns for file in again] == times
    first[3].write_bytes(b"damaged")
    check(data(root), parts)
    parts["train"] = part(datasets, range(300, 321))
    for child in sorted(root.rglob("*"), reverse=True):
        child.unlink() if child.is_file() else child.rmdir()
    parts.save_to_disk(root)
    check(data(root), parts)


def test_broken_images_are_named_and_skipped(datasets, parts, tmp_path):
    cells = [{"bytes": png(n) if n else b"no image", "path": None} for n in range(18)]
    parts["train"] = part(datasets, range(18), picture=cells)
    parts.save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError, match="train/0000000_"):
        _ = data(tmp_path / "saved").dataset
    assert len(data(tmp_path / "saved", "data.on_error=skip").dataset.splits["train"]) == 17


def test_rows_without_a_label_or_an_image(datasets, parts, tmp_path):
    kinds = [-1 if n < 2 else None if n == 2 else n % 3 for n in range(18)]
    cells = [{"bytes": png(n), "path": None} if n != 5 else None for n in range(18)]
    parts["train"] = part(datasets, range(18), kind=kinds, picture=cells)
    parts.save_to_disk(tmp_path / "saved")
    words = f"data.dir={tmp_path / 'saved'}"
    assert "row 5 of train" in refused(words) and "data.on_error=skip" in refused(words)
    notes = load(*WORDS, words, "data.on_error=skip").index.notes
    assert "left out: 3 rows of train without a label" in notes
    assert "left out: 1 row without an image, the first: row 5 of train" in notes


def test_labels_as_texts_or_numbers_need_their_column(datasets, tmp_path):
    rows = {"image": [{"bytes": png(n), "path": None} for n in range(40)],
            "animal": ["cät" if n % 2 else "dog" for n in range(40)],
            "year": [1990 + n % 2 for n in range(40)],
            "tags": [["a"] for _ in range(40)]}  # fmt: skip
    table = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    table.save_to_disk(tmp_path / "one")
    words = f"data.dir={tmp_path / 'one'}"
    message = refused(words)
    assert "0 columns of type ClassLabel among image, animal, year, tags" in message
    assert "data.label_column=NAME" in message
    assert data(tmp_path / "one", "data.label_column=animal").class_names == ("cät", "dog")
    assert data(tmp_path / "one", "data.label_column=year").class_names == ("1990", "1991")
    assert "data.label_column=tags" in refused(words, "data.label_column=tags")
    assert "did you mean animal" in refused(words, "data.label_column=animals")
    wrong = refused(words, "data.label_column=animal", "data.image_column=year")
    assert "data.image_column=year" in wrong and "not images" in wrong


def test_parts_that_are_no_splits(datasets, parts, tmp_path):
    parts["extra"] = part(datasets, range(400, 404))
    parts.save_to_disk(tmp_path / "saved")
    module = data(tmp_path / "saved")
    assert any("part 'extra'" in note and "4 rows" in note for note in module.index.notes)
    odd = datasets.DatasetDict({"a": parts["train"], "b": parts["test"]})
    odd.save_to_disk(tmp_path / "odd")
    assert "call them train, validation and test" in refused(f"data.dir={tmp_path / 'odd'}")


def test_parts_with_other_classes(datasets, parts, tmp_path):
    other = datasets.ClassLabel(names=["ant", "dog", "cat"])
    parts["test"] = parts["test"].cast_column("kind", other)
    parts.save_to_disk(tmp_path / "saved")
    assert "other columns or classes" in refused(f"data.dir={tmp_path / 'saved'}")


def test_what_cannot_be_loaded_is_one_line(datasets, root, tmp_path):
    assert "set data.dir" in refused(f"data.dir={tmp_path / 'none'}")
    (tmp_path / "empty").mkdir()
    assert "cannot load" in refused(f"data.dir={tmp_path / 'empty'}")
    (root / "train" / "state.json").write_text("{")
    assert "cannot load" in refused(f"data.dir={root}")
    assert "both data.hub" in refused("data.hub=a/b", f"data.dir={root}")


def test_an_arrow_file_that_ends_early(root):
    (file,) = (root / "train").glob("*.arrow")
    file.write_bytes(file.read_bytes()[:3000])
    assert str(root) in refused(f"data.dir={root}")


def test_the_missing_package_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install 'convlens[huggingface]'" in refused(f"data.dir={tmp_path}")
