"""The page of ``make review`` in a real browser: three corrections, saved, used by the next run."""

from __future__ import annotations

import csv
import os
import time
from pathlib import Path

import pytest
from PIL import Image

from convlens.cli.main import main
from convlens.training import ClassifierModule
from support.browser import Browser, Page
from support.tiny import TINY

pytestmark = pytest.mark.slow

CLASSES = ("<b>owl", "cat", "dog")
COUNT = 10
ODD = {0: 'a, "b" <i>é.png', 1: os.fsdecode(b"caf\xe9.png")}  # a comma, quotes, and no UTF-8
CODES = {"k": 75, "r": 82, "x": 88, "u": 85, "s": 83, "ArrowLeft": 37, "ArrowRight": 39}
WORDS = [word for word in TINY if not word.startswith(("data.pictures", "probes"))]
WORDS += ["data=image_folder", "callbacks=none", "logger.tensorboard=false", "probes.count=2",
          "training.epochs=1"]  # fmt: skip


def colour(label: int, number: int) -> tuple[int, int, int]:
    """The one colour of an image, by which it is known wherever it turns up."""
    return 20 * number, 90 * label, 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("review") / "pictures"
    for label, name in enumerate(CLASSES):
        (home / name).mkdir(parents=True)
        for number in range(COUNT):
            image = Image.new("RGB", (16, 16), colour(label, number))
            image.save(home / name / ODD.get(number, f"{number}.png"))
    return home


def train(home: Path, *words: str) -> Path:
    assert main(["train", f"run_dir={home}", *WORDS, *words]) == 0
    return home


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory) -> Path:
    home = train(tmp_path_factory.mktemp("run") / "first", f"data.dir={folder}")
    assert main(["review", f"run={home}", "images=9"]) == 0
    return home


def read(file: Path) -> list[dict[str, str]]:
    with open(file, encoding="utf-8", errors="surrogateescape", newline="") as table:
        return list(csv.DictReader(table))


def press(page: Page, keys: str) -> None:
    for key in keys.split():
        page.press(key, CODES[key])


def text(page: Page, part: str) -> str:
    return page.run(f"document.getElementById('{part}').textContent")


def choose(page: Page, name: str) -> None:
    page.run(f"document.getElementById('choice').value = {name!r}")


def download(page: Page, folder: Path) -> Path:
    """Press ``s``; return the file that the browser saves."""
    page.keep_downloads(folder)
    press(page, "s")
    file, deadline = folder / "corrections.csv", time.monotonic() + 20
    while not file.exists() and time.monotonic() < deadline:
        page.run("new Promise(resolve => setTimeout(resolve, 50))")
    return file


def trained_on(monkeypatch, folder: Path, *words: str) -> dict[str, str]:
    """Return the class that a training step gets for each image, known by its colour."""
    seen: dict[tuple, int] = {}
    step = ClassifierModule.training_step

    def note(self, batch, number):
        pixels = (batch["image"][:, :, 8, 8] * 255).round().int().tolist()
        seen.update(zip(map(tuple, pixels), batch["label"].tolist(), strict=True))
        return step(self, batch, number)

    with monkeypatch.context() as patch:
        patch.setattr(ClassifierModule, "training_step", note)
        train(folder, *words)
    files = {
        colour(label, number): f"{name}/{ODD.get(number, f'{number}.png')}"
        for label, name in enumerate(CLASSES) for number in range(COUNT)
    }  # fmt: skip
    return {files[pixel]: CLASSES[label] for pixel, label in seen.items()}


@pytest.mark.parametrize("dark", [False, True])
def test_it_looks_well_and_asks_for_nothing(browser: Browser, run, dark):
    for width, height, phone in ((1200, 900, False), (390, 844, True)):
        with browser.page(width, height, phone=phone, dark=dark) as page:
            address = (run / "review.html").as_uri()
            page.open(address)
            assert page.run("document.documentElement.scrollWidth") <= width
            assert text(page, "progress").startswith("image 1 of 9 · 0 decided")
            edges = "(({top, bottom}) => [top, bottom])(all('%s')[0].getBoundingClientRect())"
            parts = (".stage", "#picture", "#relabel")
            stage, picture, relabel = (page.run(edges % part) for part in parts)
            assert stage[0] <= picture[0] < picture[1] <= stage[1] and relabel[1] < height
            page.screenshot(f"review_{width}_{'dark' if dark else 'light'}")
            assert page.errors == [] and page.requests == [address]


def test_three_corrections_by_keyboard_are_saved_and_used(
    browser: Browser, run, folder, tmp_path, monkeypatch
):
    rows = read(run / "diary.csv")
    names = [Path(row["file"]).relative_to(folder).as_posix() for row in rows]
    given = [row["class"] for row in rows]
    wanted = next(name for name in CLASSES if name not in (given[0], rows[0]["other"]))
    with browser.page(1000, 900) as page:
        page.open((run / "review.html").as_uri())
        assert text(page, "given") == given[0] and text(page, "file").endswith(names[0][-6:])
        choose(page, wanted)
        press(page, "r k x k u")  # the fourth decision is taken back
        assert text(page, "progress") == (
            "image 4 of 9 · 3 decided: 1 kept, 1 relabelled, 1 left out"
        )
        page.open((run / "review.html").as_uri())  # a reload keeps the answers
        assert text(page, "progress").startswith("image 4 of 9 · 3 decided")
        assert text(page, "saved") == "Not saved yet."
        file = download(page, tmp_path)
        assert text(page, "saved") == "Everything is saved."
        press(page, "ArrowLeft ArrowLeft")
        assert text(page, "answer") == "keep"
        assert page.errors == []
    assert [tuple(row.values()) for row in read(file)] == [
        (names[0], given[0], wanted), (names[2], given[2], "leave out")
    ]  # fmt: skip
    places = {row["file"]: row["split"] for row in read(run / "split.csv")}
    before = {name: name.split("/")[0] for name in names}
    expected = {**before, names[0]: wanted}
    del expected[names[2]]
    words = [f"data.dir={folder}", f"data.corrections={file}"]
    assert trained_on(monkeypatch, tmp_path / "second", *words) == expected
    split = {
        row["file"]: (row["split"], row["label"]) for row in read(tmp_path / "second/split.csv")
    }
    assert {name: kind for name, (part, kind) in split.items() if part == "train"} == expected
    others = {name: place for name, place in places.items() if place != "train"}
    assert {name: part for name, (part, _) in split.items() if part != "train"} == others


def test_odd_names_and_a_second_review_on_top_of_the_first(
    browser: Browser, run, folder, tmp_path, monkeypatch
):
    """Names keep their bytes; what was corrected before stays unless it is answered otherwise."""
    names = [row["file"] for row in read(run / "split.csv") if row["split"] == "train"]
    odd = [name for name in names if name.endswith(tuple(ODD.values()))]
    assert any(name.endswith(ODD[1]) for name in odd)
    home = tmp_path / "review"
    home.mkdir()
    for name in ("config.yaml", "split.csv"):
        (home / name).write_bytes((run / name).read_bytes())
    rest = sorted(
        read(run / "diary.csv"), key=lambda row: not row["file"].endswith(tuple(ODD.values()))
    )
    lines = [",".join(rest[0]), *(_join(row.values()) for row in rest)]
    content = "\n".join(lines) + "\n"
    (home / "diary.csv").write_text(content, encoding="utf-8", errors="surrogateescape")
    assert main(["review", f"run={home}"]) == 0
    shown = [Path(row["file"]).relative_to(folder).as_posix() for row in rest]
    with browser.page(1000, 900) as page:
        page.open((home / "review.html").as_uri())
        press(page, " ".join("x" for _ in odd[:-1]))
        choose(page, "cat" if shown[len(odd) - 1][0] != "c" else "dog")
        press(page, "r")
        file = download(page, tmp_path)
        assert page.errors == []
    first = [tuple(row.values()) for row in read(file)]
    assert [row[0] for row in first] == shown[: len(odd)]
    second = tmp_path / "second"
    words = [f"data.dir={folder}", f"data.corrections={file}"]
    found = trained_on(monkeypatch, second, *words)
    name, given, wanted = first[-1]
    assert found[name] == wanted and not found.keys() & {row[0] for row in first[:-1]}
    # back to its own class; another one is left out; the rest of the table stays
    file.unlink()
    assert main(["review", f"run={second}"]) == 0
    shown = [Path(r["file"]).relative_to(folder).as_posix() for r in read(second / "diary.csv")]
    with browser.page(1000, 900) as page:
        page.open((second / "review.html").as_uri())
        for place in range(len(shown)):
            if shown[place] == name:
                assert text(page, "given") == wanted
                choose(page, given)
                press(page, "r")
            elif place in (0, 1):
                press(page, "x")
            else:
                press(page, "ArrowRight")
        file = download(page, tmp_path)
    outs = [other for other in shown[:2] if other != name]
    again = {row["file"]: (row["class"], row["correction"]) for row in read(file)}
    assert again == {
        **{row[0]: (row[1], "leave out") for row in first[:-1]},
        **{other: (other.split("/")[0], "leave out") for other in outs},
    }
    found = trained_on(monkeypatch, tmp_path / "third", f"data.dir={folder}",
                       f"data.corrections={file}")  # fmt: skip
    assert found == {n: n.split("/")[0] for n in names if n not in again}


def _join(cells) -> str:
    return ",".join('"' + cell.replace('"', '""') + '"' for cell in cells)
