"""``review.html``: which images it shows, by which names, and what it refuses."""

from __future__ import annotations

import base64
import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from convlens.core.errors import UserError
from convlens.data.index.tables import format_csv_line
from convlens.experiment.review import find_newest, write_review

TABLES = ("diary.csv", "split.csv")
HEADER = ("file", "class", "aum", "confidence", "other", "suspected")


def draw(file: Path, grey: int = 90) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 24), (grey, 40, 60)).save(file)
    return file


def write(file: Path, *rows: tuple) -> None:
    text = "".join(map(format_csv_line, rows))
    file.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")


def make_run(home: Path, names: list[str], files: list[str], classes: list[str], **config) -> Path:
    """Write the tables of a run, the images in the order of their suspicion."""
    home.mkdir(parents=True)
    (home / "config.yaml").write_text(yaml.safe_dump({"experiment": "scratch", **config}))
    split = [(name, label, "train") for name, label in zip(names, classes, strict=True)]
    held_out = ("held/out.png", classes[0], "test")
    write(home / "split.csv", ("file", "label", "split"), *sorted([*split, held_out]))
    rows = [(f, k, -n, 0.5, "dog", "") for n, (f, k) in enumerate(zip(files, classes, strict=True))]
    write(home / "diary.csv", HEADER, *(map(str, row) for row in rows))
    return home


def read(page: Path) -> dict:
    (found,) = re.findall(r"^const DATA = (.*);$", page.read_text(encoding="utf-8"), re.M)
    return json.loads(found)


def pixels(picture: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2]))))


def test_every_name_is_that_of_the_split_file(tmp_path, monkeypatch):
    """Below a folder whose last part is a class, beside names that contain one another."""
    pictures, outside = tmp_path / "cat", draw(tmp_path / "elsewhere" / "1.png", 200)
    names = ["cat/1.png", "1.png", "cat/cat/1.png", str(outside)]
    for number, name in enumerate(names[:3]):
        draw(pictures / name, 10 * number)
    for folder, number in ((pictures, 1), (Path("cat"), 2), (Path("./cat/."), 3)):
        monkeypatch.chdir(tmp_path)
        files = [str(folder / name) for name in names]
        home = make_run(tmp_path / f"run{number}", names, files, ["cat", "cat", "dog", "dog"])
        data = read(write_review(home, "200"))
        assert [entry["file"] for entry in data["entries"]] == names
        assert [pixels(entry["picture"])[0, 0, 0] for entry in data["entries"]] == [0, 10, 20, 200]
        assert data["classes"] == ["cat", "dog"]
        few = read(write_review(home, "2"))
        assert few["entries"] == data["entries"][:2] and few["key"] == data["key"]


def test_relative_paths_are_those_of_the_folder_where_the_run_was_started(tmp_path, monkeypatch):
    draw(tmp_path / "project/pictures/cat/1.png", 70)
    draw(tmp_path / "other/pictures/cat/1.png", 140)  # the same name where the user is now
    monkeypatch.chdir(tmp_path / "other")
    for place, config in (("outputs/scratch/2026", {}), ("runs/a", {"run_dir": "runs/a"})):
        home = tmp_path / "project" / place
        make_run(home, ["cat/1.png"], ["pictures/cat/1.png"], ["cat"], **config)
        (entry,) = read(write_review(home, "5"))["entries"]
        assert pixels(entry["picture"])[0, 0, 0] == 70 and entry["file"] == "cat/1.png"
    # of a run with an absolute folder nobody knows: the current folder, as in every command
    home = tmp_path / "runs" / "b"
    make_run(home, ["cat/1.png"], ["pictures/cat/1.png"], ["cat"], run_dir=str(home))
    (entry,) = read(write_review(home, "5"))["entries"]
    assert pixels(entry["picture"])[0, 0, 0] == 140
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no image can be read, such as pictures/cat/1.png: run"):
        write_review(home, "5")


def test_images_are_upright_in_their_colours_and_missing_ones_are_said(tmp_path):
    wide = np.zeros((300, 600, 3), np.uint8)
    wide[:, :300, 1] = 255  # green on the left: at the top when it stands on its side
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(wide).save(tmp_path / "1.jpg", exif=exif, quality=95)
    Image.fromarray(wide[:64, 268:332]).save(tmp_path / "2.webp", lossless=True)
    names = ["1.jpg", "2.webp", "3.png"]
    home = make_run(tmp_path / "run", names, [str(tmp_path / n) for n in names], ["cat"] * 3)
    entries = read(write_review(home, "9"))["entries"]
    turned = pixels(entries[0]["picture"]).astype(int)
    assert turned.shape == (600, 300, 3)
    assert turned[:280, :, 1].min() > 240 and turned[320:, :, 1].max() < 15
    assert (pixels(entries[1]["picture"]) == wide[:64, 268:332]).all()
    assert entries[2]["picture"] == ""


def test_names_cannot_leave_the_script(tmp_path):
    names = ["</script><b>&amp;.png", os.fsdecode(b"caf\xe9.png"), "<!--.png"]
    files = [str(tmp_path / name) for name in names]
    for file in files[:1]:
        Image.new("RGB", (24, 24)).save(tmp_path / "x.png")
        try:
            os.makedirs(os.path.dirname(file), exist_ok=True)
            (tmp_path / "x.png").rename(file)
        except OSError:
            pytest.skip("this file system does not have such names")
    home = make_run(tmp_path / "run", names, files, ["</script>", "<!--", "dog"])
    page = write_review(home, "9")
    data, text = read(page), page.read_text(encoding="utf-8")
    assert [entry["file"] for entry in data["entries"]] == names
    assert [entry["given"] for entry in data["entries"]] == ["</script>", "<!--", "dog"]
    assert text.count("</script>") == 1 and text.count("<!--") == 0


def test_corrections_of_the_run_are_kept(tmp_path):
    """Its diary has the corrected labels; the table is about those of the data set."""
    names = ["cat/1.png", "cat/2.png"]
    for name in names:
        draw(tmp_path / name)
    files = [str(tmp_path / name) for name in names]
    home = make_run(tmp_path / "run", names, files, ["dog", "cat"])
    table = [("cat/1.png", "cat", "dog"), ("cat/3.png", "cat", "leave out")]
    write(home / "corrected.csv", ("file", "class", "correction"), *table)
    # what a user saved into the folder is not what the run was trained with
    write(home / "corrections.csv", ("file", "class", "correction"), ("cat/2.png", "cat", "dog"))
    data = read(write_review(home, "9"))
    assert data["earlier"] == [list(row) for row in table]
    assert [entry["original"] for entry in data["entries"]] == ["cat", "cat"]
    assert [entry["given"] for entry in data["entries"]] == ["dog", "cat"]


def test_answers_belong_to_the_labels(tmp_path):
    draw(tmp_path / "1.png")
    keys = []
    for number, label in enumerate(["cat", "cat", "dog"]):
        home = tmp_path / "run"
        make_run(home, ["1.png"], [str(tmp_path / "1.png")], [label])
        keys.append(read(write_review(home, "9"))["key"])
        home.rename(tmp_path / f"away{number}")
    assert keys[0] == keys[1] != keys[2]


def test_refusals(tmp_path):
    draw(tmp_path / "1.png")

    def refuse(home: Path, message: str, images: str = "9") -> None:
        with pytest.raises(UserError, match=message) as error:
            write_review(home, images)
        assert "\n" not in str(error.value) and not (home / "review.html").exists()

    refuse(tmp_path / "none", "there is no run folder")
    home = make_run(tmp_path / "run", ["1.png"], [str(tmp_path / "1.png")], ["cat"])
    for images in ("0", "-1", "many", "²", "1.5", ""):
        refuse(home, "expected a whole number from 1 on", images)
    good = (home / "diary.csv").read_text()
    (home / "diary.csv").write_text(good.splitlines()[0] + "\n")
    refuse(home, "a diary without rows")
    (home / "diary.csv").write_text("file,class,labelled\n1.png,cat,present\n")
    refuse(home, "several classes cannot be reviewed")
    (home / "diary.csv").write_text("file,klass\n1.png,cat\n")
    refuse(home, "no column 'class'")
    (home / "diary.csv").write_text(good.replace("1.png", "2.png"))
    refuse(home, "not of the same images")
    (home / "diary.csv").unlink()
    refuse(home, "has no diary.csv")
    (home / "diary.csv").write_text(good)
    (home / "split.csv").unlink()
    refuse(home, "images are not files")


def test_last_is_the_newest_run_that_can_be_reviewed(tmp_path, monkeypatch, capsys):
    from convlens.rundir import log as logs

    monkeypatch.chdir(tmp_path)
    logs.log_to_screen()
    draw(tmp_path / "1.png")
    image = str(tmp_path / "1.png")

    def move(table: Path) -> None:
        table.write_text(table.read_text().replace("1.png", "2.png"))

    with pytest.raises(UserError, match="there is no run in outputs"):
        find_newest()
    lacks = {  # the newest run last
        "drawn": (lambda home: (home / "split.csv").unlink(), "images are not files"),
        "early": (lambda home: (home / "diary.csv").unlink(), "has no diary.csv"),
        "several": (
            lambda home: write(home / "diary.csv", ("file", "class", "labelled"), ("1", "cat", "")),
            "several classes cannot be reviewed",
        ),
        "moved": (lambda home: [move(home / name) for name in TABLES], "no image can be read"),
    }  # fmt: skip
    for number, (name, (spoil, reason)) in enumerate(lacks.items()):
        home = make_run(Path("outputs/scratch") / name, ["1.png"], [image], ["cat"])
        spoil(home)
        os.utime(home / "config.yaml", (1_000_000_000 + number,) * 2)
        with pytest.raises(UserError, match="no run in outputs/ can be used") as error:
            find_newest()
        assert reason in str(error.value) and name in str(error.value)
        assert "\n" not in str(error.value)
    good = make_run(Path("outputs/scratch/good"), ["1.png"], [image], ["cat"])
    os.utime(good / "config.yaml", (900_000_000,) * 2)
    capsys.readouterr()
    assert find_newest() == good
    said = capsys.readouterr().out
    assert "last is outputs/scratch/good: the newer outputs/scratch/moved" in said
    assert len(read(write_review(find_newest(), "9"))["entries"]) == 1


def make_suspects(home: Path, pictures: Path) -> Path:
    """A run with one suspect among the validation images and two among the test images."""
    names = [f"{k}.png" for k in range(5)]
    for number, name in enumerate(names):
        draw(pictures / name, 50 * number)
    files = [str(pictures / name) for name in names]
    make_run(home, names[:2], files[:2], ["cat", "dog"])
    held_out = zip(names[2:], ("validation", "test", "test"), strict=True)
    split = [(name, label, "train") for name, label in zip(names, ["cat", "dog"], strict=False)]
    split += [(name, "cat", part) for name, part in held_out]
    write(home / "split.csv", ("file", "label", "split"), *split)
    rows = [
        (part, file, "cat", "-3.5", "0.03", "dog", "0.97")
        for part, file in zip(("validation", "test", "test"), files[2:], strict=True)
    ]
    columns = ("split", "file", "class", "margin", "probability", "other", "confidence")
    write(home / "suspects.csv", columns, *rows)
    return home


def test_suspects_of_other_splits_are_reviewed_by_name(tmp_path):
    home = make_suspects(tmp_path / "run", tmp_path / "pictures")
    shown, keys, pages = {}, set(), {}
    for split in ("train", "validation", "test", "all"):
        page = write_review(home, "9", split)
        data = read(page)
        keys.add(data["key"])
        shown[split] = [(each["file"], each["split"]) for each in data["entries"]]
        pages[split] = page.name
        text = page.read_text(encoding="utf-8")
        named = "data.corrections_of=[" in text
        assert named == (split != "train")  # whoever corrects test images must say so
        if named:
            said = re.findall(r"data.corrections_of=\[([^]]*)\]", text)
            assert said == ["train,validation,test" if split == "all" else f"train,{split}"]
    held_out = [("2.png", "validation"), ("3.png", "test"), ("4.png", "test")]
    train = [("0.png", "train"), ("1.png", "train")]
    assert shown == {
        "train": train, "validation": held_out[:1], "test": held_out[1:], "all": held_out + train
    }  # fmt: skip
    assert len(keys) == 4 and len(set(pages.values())) == 4
    (entry,) = read(home / pages["validation"])["entries"]
    assert pixels(entry["picture"])[0, 0, 0] == 100
    assert (entry["aum"], entry["confidence"], entry["other"]) == ("-3.5", "0.03", "dog")
    assert entry["suspected"] and entry["given"] == "cat"
    assert len(read(write_review(home, "1", "all"))["entries"]) == 1


def test_a_review_names_the_splits_that_the_run_corrected(tmp_path):
    """Else the rows of its own table about test images would not be applied again."""
    home = make_suspects(tmp_path / "run", tmp_path / "pictures")
    config = {"experiment": "scratch", "data": {"corrections_of": ["train", "test"]}}
    (home / "config.yaml").write_text(yaml.safe_dump(config))
    assert "data.corrections_of=[train,test]" in write_review(home, "9").read_text()


def test_reviews_of_other_splits_are_refused_without_suspects(tmp_path):
    home = make_suspects(tmp_path / "run", tmp_path / "pictures")
    table = (home / "suspects.csv").read_text().splitlines(keepends=True)
    (home / "suspects.csv").write_text("".join(table[:2]))  # the one of validation
    for split, reason in (("test", "no label of a test image is suspected"), ("tset", "test")):
        with pytest.raises(UserError, match=reason):
            write_review(home, "9", split)
    (home / "suspects.csv").unlink()
    with pytest.raises(UserError, match="has no suspects.csv"):
        write_review(home, "9", "all")
