"""The report's section on the images of a run says what ``data.json`` holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from convlens.core.errors import UserError
from convlens.pages.report import report
from support.page_parsed import Page
from support.runs_made import CONFIG, changed, write_run

NASTY = '<b>&"x'
SHOWN = {**changed(CONFIG, finetune__phases=None), "scheduler": {"name": "cosine"},
         "precision": "32"}  # fmt: skip
FACTS = {
    "name": "image_folder",
    "classes": ["cats", NASTY, "emus"],
    "images": {"train": [1200, 30, 60], "validation": [100, 3, 5], "test": [90, 2, 4]},
    "notes": [f"1 image is in several splits, such as {NASTY}"],
    "skipped": {"count": 9, "reasons": [["the file is empty", 5], [NASTY, 3]],
                "first": [[f"a/{NASTY}.jpg", NASTY], ["b.jpg", "the file is empty"]]},
    "copies": {"repeated": 4, "in_splits": 1, "in_classes": 2},
    "conflicts": {"count": 7,
                  "first": [["a.jpg", "cats", "train", NASTY, "emus", "test", "looks"]]},
    "originals": {"smallest": [20, 10], "median": [640, 480], "largest": [4000, 3000],
                  "enlarged": 7, "size": 150, "resize": "squash", "oblong": 1100,
                  "median_ratio": 1.3333, "largest_ratio": 2.0},
}  # fmt: skip


def section(home: Path, facts: dict[str, Any] | None) -> tuple[Page, str]:
    """Return the page of an unfinished run with these facts, and the section's text on one line."""
    write_run(home, [1.0, 0.5], config=SHOWN, finished=False)
    if facts is not None:
        (home / "data.json").write_text(json.dumps(facts))
    page = Page(report(home).read_text(encoding="utf-8"))
    (found,) = page.all("section", id="data")
    return page, " ".join(found.text.split())


def cells(page: Page, table: str) -> list[list[str]]:
    (found,) = page.all("table", id=table)
    return [[c.text for c in page.inside(row, "td")] for row in page.inside(found, "tr")][1:]


def test_every_fact_is_shown(tmp_path):
    page, text = section(tmp_path / "run", FACTS)
    assert cells(page, "images") == [
        ["cats", "1,200", "100", "90", "1,390"], [NASTY, "30", "3", "2", "35"],
        ["emus", "60", "5", "4", "69"],
    ]  # fmt: skip
    for part in (
        "1,494 images (1,290 train, 108 validation, 96 test), 3 classes",
        f"the largest class, cats, has 1,200 images, and the smallest, {NASTY}, has 30: "
        "a factor of 40.",
        "150 × 150 pixels. 7 images had fewer and were enlarged.",
        "In 1,100 images one side is more than a tenth longer than the other (median of all "
        "images 1.33 : 1, at most 2.00 : 1); they are squashed to a square",
        "4 images have the same bytes as another one. 1 image is in several splits, 2 in several "
        "classes.",
        "9 images could not be decoded and were skipped.",
        f"The first: a/{NASTY}.jpg, b.jpg",
        f"1 image is in several splits, such as {NASTY}",
    ):
        assert part in text
    assert "7 pairs of images look the same and have different labels, so at least one" in text
    assert cells(page, "conflicts") == [["a.jpg", "cats", "train", NASTY, "emus", "test"]]
    assert cells(page, "sizes") == [
        ["smallest", "20 × 10"], ["median", "640 × 480"], ["largest", "4000 × 3000"]
    ]  # fmt: skip
    assert cells(page, "skipped") == [
        ["the file is empty", "5"], [NASTY, "3"], ["other reasons", "1"]
    ]  # fmt: skip


def test_a_run_of_an_earlier_version_has_no_conflicts(tmp_path):
    facts = {name: value for name, value in FACTS.items() if name != "conflicts"}
    page, text = section(tmp_path / "run", facts)
    assert "4 images have the same bytes" in text and not page.all("table", id="conflicts")


def test_bars_are_as_long_as_the_numbers(tmp_path):
    page, _ = section(tmp_path / "run", FACTS)
    (table,) = page.all("table", id="images")
    bars = [e for e in page.inside(table, "span") if e.has_class("bar")]
    widths = [float(bar.attributes["style"].split("%")[0].removeprefix("width: ")) for bar in bars]
    counts = [count for row in zip(*FACTS["images"].values(), strict=True) for count in row]
    assert widths == pytest.approx([100 * count / 1390 for count in counts], abs=0.005)


def test_what_is_fine_is_said_in_a_sentence_and_no_table(tmp_path):
    even = {
        **FACTS, "images": {"train": [9, 9, 9], "validation": [1, 2, 3], "test": [1, 1, 1]},
        "skipped": {"count": 0, "reasons": [], "first": []}, "notes": [],
        "copies": {"repeated": 0, "in_splits": 0, "in_classes": 0},
        "originals": {**FACTS["originals"], "enlarged": 0, "oblong": 0},
    }  # fmt: skip
    page, text = section(tmp_path / "run", even)
    for part in ("Every class has 9 images for training.", "No image had to be enlarged.",
                 "All images are square", "No two images have the same bytes."):  # fmt: skip
        assert part in text
    assert not page.all("table", id="skipped") and "Notes" not in text


def test_drawn_images_have_neither_files_nor_copies(tmp_path):
    _, text = section(tmp_path / "run", {**FACTS, "originals": None, "copies": None})
    assert "Sizes of the originals" not in text and "Copies" not in text


@pytest.mark.parametrize(("classes", "is_open"), [(20, True), (21, False)])
def test_a_long_table_is_folded(tmp_path, classes, is_open):
    facts = {**FACTS, "classes": [f"c{number}" for number in range(classes)],
             "images": {split: [3] * classes for split in FACTS["images"]}}  # fmt: skip
    page, _ = section(tmp_path / "run", facts)
    (table,) = page.all("table", id="images")
    (fold,) = [e for e in table.above if e.tag == "details"]
    assert ("open" in fold.attributes) == is_open


def test_an_earlier_run_says_that_it_recorded_nothing(tmp_path):
    _, text = section(tmp_path / "run", None)
    assert text == "Data This run was made before facts about its data were recorded."


@pytest.mark.parametrize("content", ["[]", "{", "{}", '{"images": 3}', '{"images": {}}'])
def test_a_damaged_file_is_named_in_one_line(tmp_path, content):
    home = write_run(tmp_path / "run", [1.0, 0.5], config=SHOWN)
    (home / "data.json").write_text(content)
    with pytest.raises(UserError) as told:
        report(home)
    assert "\n" not in str(told.value) and str(home) in str(told.value)
