"""``data.corrections``: what reaches the network, and which tables are refused."""

from __future__ import annotations

import csv
import os
import random
import unicodedata

import numpy as np
import pytest
from PIL import Image

from convlens.config.compose import compose
from convlens.core.errors import UserError
from convlens.data.index.tables import format_csv_line
from convlens.data.sources.corrections import read_corrections, write_corrections
from convlens.data.sources.registry import build_index, build_pool
from convlens.data.split_record import SplitRecord

ODD = 'a, "b" <i>é.png'
CLASSES, COUNT = ("cat", "dog", "owl"), 12


def draw(home, classes, names):
    """Draw class folders of images, each in another colour."""
    for number, kind in enumerate(classes):
        (home / kind).mkdir(parents=True)
        for k, name in enumerate(names):
            Image.new("RGB", (8, 8), (20 * k, 80 * number, 10)).save(home / kind / name)
    return home


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("corrected") / "é pictures"
    return draw(home, CLASSES, [ODD, *(f"{k}.png" for k in range(1, COUNT))])


def spec_of(folder, *words):
    words = [f"data.dir={folder}", "data.size=8", "data.cache=ram", *words]
    words += ["data.split.validation=0.3", "data.split.test=0.3"]
    return compose(["data=image_folder", *words]).data


def write(path, *rows):
    lines = map(format_csv_line, [("file", "class", "correction"), *rows])
    path.write_text("".join(lines), encoding="utf-8", errors="surrogateescape")
    return f"data.corrections={path}"


def describe(index):
    """Return split and class by file name."""
    files = index.listing
    labels = [files.class_names[label] for label in files.labels]
    pairs = zip(files.splits.tolist(), labels, strict=True)
    return dict(zip(files.files.names(), pairs, strict=True))


@pytest.fixture(scope="module")
def before(folder):
    return describe(build_index(spec_of(folder), 0))


@pytest.mark.parametrize("seed", range(4))
def test_random_tables_against_plain_loops(folder, before, tmp_path, seed):
    """What each split then has; all other images stay where they are, files are untouched."""
    draw = random.Random(seed)
    states = {file: os.stat(file) for file in folder.rglob("*.png")}
    of = draw.sample(["train", "validation", "test"], seed)  # 0 to 3 splits
    rows, expected, counts, waiting = [], dict(before), {}, 0
    for name in draw.sample(sorted(before), 9):
        split, given = before[name]
        wanted = draw.choice([*CLASSES, "leave out"])
        rows.append((name, given, wanted))
        if split not in of:
            waiting += 1
        elif wanted == "leave out":
            del expected[name]
            counts.setdefault(split, [0, 0])[1] += 1
        elif wanted != given:
            expected[name] = (split, wanted)
            counts.setdefault(split, [0, 0])[0] += 1
    word = write(tmp_path / "c.csv", *rows)
    spec = spec_of(folder, word, f"data.corrections_of=[{','.join(of)}]")
    index = build_index(spec, 0)
    assert describe(index) == expected
    (line,) = [note for note in index.notes if "corrections of" in note]
    for split, (relabelled, out) in counts.items():
        assert f"{split} {relabelled} relabelled, {out} left out" in line
    assert line.count("relabelled") == len(counts)
    said = f"{waiting} row{' is' if waiting == 1 else 's are'} about"
    assert (said in line) == bool(waiting)
    # what is decoded, and counted
    loaded = index.load()
    for split, images in loaded.splits.items():
        names = [os.path.relpath(name, folder) for name in images.names]
        found = {name: CLASSES[k] for name, k in zip(names, images.labels, strict=True)}
        assert found == {name: kind for name, (part, kind) in expected.items() if part == split}
        wanted = [sum(place == (split, kind) for place in expected.values()) for kind in CLASSES]
        assert index.counts[split].tolist() == wanted
        for name, row in zip(names, range(len(images)), strict=True):
            pixels = np.asarray(Image.open(folder / name))
            assert (images.pixels(np.array([row]))[0] == pixels).all()
    assert {file: os.stat(file) for file in folder.rglob("*.png")} == states


def test_names_absolute_relative_and_in_either_spelling_of_accents(
    folder, before, tmp_path, monkeypatch
):
    train = [name for name, (split, _) in before.items() if split == "train"]
    monkeypatch.chdir(folder.parent)
    spellings = [
        lambda name: str(folder / name),
        lambda name: f"{folder.name}/{name}",  # as diary.csv has it if data.dir is relative
        lambda name: f"./{name}",
        lambda name: unicodedata.normalize("NFD", str(folder / name)),
    ]
    rows = [
        (spell(train[k]), before[train[k]][1], "leave out") for k, spell in enumerate(spellings)
    ]
    rows.append((unicodedata.normalize("NFD", f"owl/{ODD}"), "owl", "cat"))
    of = "data.corrections_of=[train,validation,test]"
    index = build_index(spec_of(folder, write(tmp_path / "c.csv", *rows), of), 0)
    expected = {name: place for name, place in before.items() if name not in train[:4]}
    expected[f"owl/{ODD}"] = (before[f"owl/{ODD}"][0], "cat")
    assert describe(index) == expected
    # the copy in the run folder has the names of split.csv, so that the data may move
    write_corrections(tmp_path / "copy.csv", index.correction_table)
    assert [each.file for each in read_corrections(tmp_path / "copy.csv")] == [
        *train[:4], f"owl/{ODD}"
    ]  # fmt: skip
    spec = spec_of(folder, f"data.corrections={tmp_path / 'copy.csv'}", of)
    assert describe(build_index(spec, 0)) == expected


def test_names_that_differ_in_spelling_only_are_two_images(tmp_path):
    home = tmp_path / "pictures"
    names = [unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD")]
    draw(home, ("cat", "dog"), [*names, *(f"{k}.png" for k in range(8))])
    if len(os.listdir(home / "cat")) < 10:
        pytest.skip("this file system takes both spellings for one name")
    of = "data.corrections_of=[train,validation,test]"
    word = write(tmp_path / "c.csv", (f"cat/{names[1]}", "cat", "dog"))
    found = describe(build_index(spec_of(home, word, of), 0))
    assert found[f"cat/{names[1]}"][1] == "dog" and found[f"cat/{names[0]}"][1] == "cat"


def test_a_name_that_is_not_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    draw(tmp_path / "pictures", ("cat", "dog"), [f"{k}.png" for k in range(8)])
    try:
        (tmp_path / "pictures/cat/7.png").rename(tmp_path / f"pictures/cat/{name}")
    except OSError:
        pytest.skip("this file system has only names in UTF-8")
    word = write(tmp_path / "c.csv", (f"cat/{name}", "cat", "dog"))
    of = "data.corrections_of=[train,validation,test]"
    index = build_index(spec_of(tmp_path / "pictures", word, of), 0)
    assert describe(index)[f"cat/{name}"][1] == "dog"
    write_corrections(tmp_path / "copy.csv", index.correction_table)
    assert (tmp_path / "copy.csv").read_bytes() == (tmp_path / "c.csv").read_bytes()


def test_the_table_of_a_spreadsheet(folder, before, tmp_path):
    name = next(n for n, place in before.items() if place == ("train", "cat"))
    text = f"\ufefffile;class;correction;remark\r\n{name};cat;dog;blurred\r\n"
    (tmp_path / "c.csv").write_text(text, encoding="utf-8", newline="")
    found = describe(build_index(spec_of(folder, f"data.corrections={tmp_path}/c.csv"), 0))
    assert found == {**before, name: ("train", "dog")}


REFUSED = {
    "line 2: cat/99.png is not among the images in": [("cat/99.png", "cat", "dog")],
    "lines 2, 4-6: cat/99.png is not among": [
        ("cat/99.png", "cat", "dog"), ("cat/1.png", "cat", "dog"), ("/etc/passwd", "cat", "dog"),
        ("../cat/2.png", "cat", "dog"), ("Cat/3.png", "cat", "dog"),
    ],
    "line 2: cat/1.png is 'cat', not 'dog'": [("cat/1.png", "dog", "cat")],
    "line 3: cat/99.png is not among": [("cat/1.png", "dog", "cat"), ("cat/99.png", "cat", "dog")],
    "line 2: no class 'dgo'; did you mean": [("cat/1.png", "cat", "dgo")],
    "line 3: an earlier line names": [("cat/1.png", "cat", "dog"), ("./cat/1.png", "cat", "dog")],
    "lines 2-3: every row needs file, class, correction": [("cat/1.png", "cat", ""),
                                                           ("", "cat", "dog")],
    "leaves no train image of class 'cat'": [
        (f"cat/{k}.png" if k else f"cat/{ODD}", "cat", "leave out") for k in range(COUNT)
    ],
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_tables_that_do_not_fit_are_refused(folder, tmp_path, message):
    with pytest.raises(UserError) as error:
        build_index(spec_of(folder, write(tmp_path / "c.csv", *REFUSED[message])), 0)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_all_reasons_are_in_the_line(folder, tmp_path):
    rows = [("cat/99.png", "cat", "dog"), ("cat/1.png", "dog", "cat"), ("cat/2.png", "cat", "x")]
    with pytest.raises(UserError) as error:
        build_index(spec_of(folder, write(tmp_path / "c.csv", *rows)), 0)
    assert [part in str(error.value) for part in ("line 2: ", "line 3: ", "line 4: ")] == [True] * 3


def test_refused_without_a_table_or_its_columns(folder, tmp_path):
    with pytest.raises(UserError, match="no file"):
        build_index(spec_of(folder, f"data.corrections={tmp_path / 'none.csv'}"), 0)
    (tmp_path / "c.csv").write_text("file,label\ncat/1.png,dog\n")
    with pytest.raises(UserError, match="no column 'class'"):
        build_index(spec_of(folder, f"data.corrections={tmp_path / 'c.csv'}"), 0)


def test_refused_for_images_without_files_or_with_several_classes(folder, tmp_path):
    word = write(tmp_path / "c.csv", ("cat/1.png", "cat", "dog"))
    with pytest.raises(UserError, match="not files"):
        build_index(compose(["data=shapes", word]).data, 0)
    with pytest.raises(UserError, match="several classes"):
        build_index(spec_of(folder, word, "data.multi_label=true"), 0)


def test_refused_if_a_class_is_called_like_leaving_out(tmp_path):
    draw(tmp_path / "pictures", ("cat", "leave out"), [f"{k}.png" for k in range(8)])
    word = write(tmp_path / "c.csv", ("cat/1.png", "cat", "leave out"))
    with pytest.raises(UserError, match="is called so; rename it"):
        build_index(spec_of(tmp_path / "pictures", word), 0)


def test_a_pool_to_test_is_corrected_only_by_name(folder, tmp_path):
    rows = [("cat/1.png", "cat", "dog"), ("dog/1.png", "dog", "leave out")]
    word = write(tmp_path / "c.csv", *rows)
    for of in ("[train]", "[train,validation]", "[test]"):
        pool = build_pool(spec_of(folder, word, f"data.corrections_of={of}"), 0)
        labels = dict(zip(pool.names, (CLASSES[k] for k in pool.labels), strict=True))
        assert labels[str(folder / "cat/1.png")] == ("dog" if of == "[test]" else "cat")
        assert (pool.corrected is not None) == (of == "[test]")
    out = [name for name, out in zip(pool.names, pool.corrected.left_out, strict=True) if out]
    assert out == [str(folder / "dog/1.png")]


def test_a_label_is_part_of_the_record_that_checkpoints_keep(folder, before, tmp_path):
    """Swapping two labels leaves images and counts as they are."""
    train = [name for name, (split, _) in before.items() if split == "train"]
    pair = [next(n for n in train if n.startswith(kind)) for kind in ("cat", "dog")]
    rows = [(pair[0], "cat", "dog"), (pair[1], "dog", "cat")]
    record = {}
    for word in ([], [write(tmp_path / "c.csv", *rows)]):
        dataset = build_index(spec_of(folder, *word), 0).load()
        record[len(word)] = SplitRecord.of(dataset, np.zeros(0, np.int64))
    assert all((getattr(record[0], s) == getattr(record[1], s)).all() for s in ("train", "test"))
    assert not record[0].same_as(record[1])
    again = {n: SplitRecord.from_state(each.state(), "it") for n, each in record.items()}
    assert again[1].same_as(record[1]) and not again[1].same_as(record[0])
    # a checkpoint of an earlier version says nothing about labels
    old = {key: value for key, value in record[0].state().items() if key != "labels"}
    assert SplitRecord.from_state(old, "it").same_as(record[1])


def test_a_table_survives_writing_and_reading(tmp_path):
    rows = [(ODD, "cat", "dog"), ("b\r.png", "c,t", "leave out"), ("c\n.png", "x", "y")]
    write(tmp_path / "c.csv", *rows)
    write_corrections(tmp_path / "copy.csv", read_corrections(tmp_path / "c.csv"))
    with open(tmp_path / "copy.csv", newline="", encoding="utf-8") as file:
        assert [tuple(row) for row in csv.reader(file)][1:] == rows
