"""``data.corrections``: what reaches the network, and which tables are refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from convlens.config.compose import compose
from convlens.core.errors import UserError
from convlens.data.index.tables import format_csv_line
from convlens.data.sources.registry import build_index, build_pool

ODD = 'a, "b" <i>é.png'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("corrected")
    for number, name in enumerate(("cat", "dog")):
        (home / name).mkdir()
        for k in range(10):
            file = home / name / (ODD if k == 0 else f"{k}.png")
            Image.new("RGB", (8, 8), (25 * k, 200 * number, 10)).save(file)
    return home


def spec_of(folder, *words):
    words = [f"data.dir={folder}", "data.size=8", "data.cache=ram", *words]
    return compose(["data=image_folder", *words]).data


def write(path, *rows):
    lines = map(format_csv_line, [("file", "class", "correction"), *rows])
    path.write_text("".join(lines), encoding="utf-8")
    return f"data.corrections={path}"


def describe(index):
    """Return split and class by file name."""
    files = index.listing
    labels = [files.class_names[label] for label in files.labels]
    pairs = zip(files.splits.tolist(), labels, strict=True)
    return dict(zip(files.files.names(), pairs, strict=True))


def test_labels_change_and_all_other_images_stay_in_their_splits(folder, tmp_path):
    before = describe(build_index(spec_of(folder), 0))
    train = [name for name, (split, _) in before.items() if split == "train"]
    cat = next(name for name in train if name.startswith("cat/"))
    out = next(name for name in reversed(train) if name.startswith("dog/"))
    word = write(tmp_path / "c.csv", (cat, "cat", "dog"), (str(folder / out), "dog", "leave out"))
    index = build_index(spec_of(folder, word), 0)
    expected = {name: place for name, place in before.items() if name != out}
    expected[cat] = ("train", "dog")
    assert describe(index) == expected
    assert "train 1 relabelled, 1 left out" in index.notes[0]
    loaded = index.load().splits["train"]
    assert {name: int(label) for name, label in zip(loaded.names, loaded.labels, strict=True)} == {
        str(folder / name): int(kind == "dog")
        for name, (split, kind) in expected.items() if split == "train"
    }  # fmt: skip
    pool = build_pool(spec_of(folder, word), 0)
    assert len(pool.labels) == len(expected) and str(folder / out) not in list(pool.names)


@pytest.mark.parametrize("asked", [False, True])
def test_test_images_are_corrected_only_if_asked_for(folder, tmp_path, asked):
    before = describe(build_index(spec_of(folder), 0))
    name = next(name for name, (split, kind) in before.items() if (split, kind) == ("test", "cat"))
    other = next(n for n, (s, k) in before.items() if (s, k) == ("test", "dog"))
    # each class keeps a test image
    word = write(tmp_path / "c.csv", (name, "cat", "dog"), (other, "dog", "cat"))
    spec = spec_of(folder, word, f"data.corrections_of_test={str(asked).lower()}")
    index, pool = build_index(spec, 0), build_pool(spec, 0)
    assert describe(index)[name] == ("test", "dog" if asked else "cat")
    assert ("not applied" in index.notes[0]) is not asked
    assert pool.labels[list(pool.names).index(str(folder / name))] == int(asked)


def test_names_with_commas_quotes_and_accents(folder, tmp_path):
    name = f"cat/{ODD}"
    split, _ = describe(build_index(spec_of(folder), 0))[name]
    word = write(tmp_path / "c.csv", (name, "cat", "dog"))
    index = build_index(spec_of(folder, word, "data.corrections_of_test=true"), 0)
    assert describe(index)[name] == (split, "dog")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("cat/99.png", "cat", "dog")], "not among the images"),
        ([("cat/1.png", "dog", "cat")], "was 'dog' and is 'cat' now"),
        ([("cat/1.png", "cat", "bird")], "no class 'bird'"),
        ([("cat/1.png", "cat", "dog")] * 2, "twice"),
        ([("cat/1.png", "cat", "")], "every row needs"),
        ([(f"cat/{k}.png", "cat", "leave out") for k in range(1, 10)], "without"),
    ],
)
def test_tables_that_do_not_fit_are_refused(folder, tmp_path, rows, message):
    word = write(tmp_path / "c.csv", *rows)
    with pytest.raises(UserError, match=message):
        build_index(spec_of(folder, word), 0)


def test_refused_for_images_without_files(tmp_path):
    word = write(tmp_path / "c.csv", ("shapes/train/1", "disc", "ring"))
    with pytest.raises(UserError, match="not files"):
        build_index(compose(["data=shapes", word]).data, 0)


def test_the_file_itself_is_untouched(folder, tmp_path):
    image = folder / "cat" / "1.png"
    before = np.array(Image.open(image)), image.stat().st_mtime_ns
    build_index(spec_of(folder, write(tmp_path / "c.csv", ("cat/1.png", "cat", "dog"))), 0)
    assert (np.array(Image.open(image)) == before[0]).all()
    assert image.stat().st_mtime_ns == before[1]
