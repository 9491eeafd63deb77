"""The page of ``make review`` in a real browser: three corrections, saved, used by the next run."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from PIL import Image

from convlens.config.compose import compose
from convlens.data.index.tables import format_csv_line
from convlens.data.sources.registry import build_index
from convlens.pages.review import write_review

pytestmark = pytest.mark.slow

ODD = 'a, "b" <i>é.png'
CODES = {"k": 75, "r": 82, "x": 88, "u": 85, "ArrowLeft": 37, "ArrowRight": 39}


@pytest.fixture
def folder(tmp_path):
    home = tmp_path / "pictures"
    for number, name in enumerate(("cat", "dog", "<b>owl")):
        (home / name).mkdir(parents=True)
        for k in range(10):
            pixels = np.full((24, 24, 3), (20 * k, 90 * number, 60), np.uint8)
            Image.fromarray(pixels).save(home / name / (ODD if k == 0 else f"{k}.png"))
    return home


def words_of(folder):
    return ["data=image_folder", f"data.dir={folder}", "data.size=24", "data.cache=ram"]


def describe(words):
    files = build_index(compose(words).data, 0).listing
    rows = zip(files.files.names(), files.splits.tolist(), files.labels.tolist(), strict=True)
    return {name: (split, files.class_names[label]) for name, split, label in rows}


def make_run(home, folder, names):
    home.mkdir()
    (home / "config.yaml").write_text(
        yaml.safe_dump({"experiment": "scratch", "data": {"name": "x", "dir": str(folder)}})
    )
    every = [(name,) for name in describe(words_of(folder))]
    (home / "split.csv").write_text("".join(map(format_csv_line, [("file",), *every])))
    rows = [(str(folder / n), n.split("/")[0], "-1", "dog") for n in names]
    rows += [(str(folder / f"{name}/9.png"), name, "9", "") for name in ("cat", "dog", "<b>owl")]
    header = ("file", "class", "aum", "suspected")
    (home / "diary.csv").write_text("".join(map(format_csv_line, [header, *rows])))
    return home


def test_three_corrections_by_keyboard_are_saved_and_used(browser, folder, tmp_path):
    before = describe(words_of(folder))
    names = [n for n, (s, k) in before.items() if s == "train" and k != "dog"]
    odd = [n for n in names if n.endswith(ODD)]  # the awkward name if it is in training
    names = list(dict.fromkeys([*odd, *names]))[:5]
    file = write_review(make_run(tmp_path / "run", folder, names), 200)
    with browser.page(1000, 900) as page:
        page.open(file.as_uri())

        def press(key):
            page.press(key, CODES[key])

        def progress():
            return page.run("document.getElementById('progress').textContent")

        press("r")  # the suspected class
        press("k")
        press("x")
        press("x")
        press("u")
        page.run("document.getElementById('choice').value = '<b>owl'")
        given = names[3].split("/")[0]
        wanted = "cat" if given == "<b>owl" else "<b>owl"
        page.run(f"document.getElementById('choice').value = {json.dumps(wanted)}")
        press("r")
        assert progress() == "image 5 of 8 · 4 decided"
        page.open(file.as_uri())  # a reload keeps the answers
        assert progress() == "image 5 of 8 · 4 decided"
        saved = page.run("table()")
        page.screenshot("review")
        assert page.errors == []
    table = tmp_path / "corrections.csv"
    table.write_text(saved, encoding="utf-8")
    expected = {name: place for name, place in before.items() if name != names[2]}
    expected[names[0]], expected[names[3]] = ("train", "dog"), ("train", wanted)
    assert describe([*words_of(folder), f"data.corrections={table}"]) == expected
