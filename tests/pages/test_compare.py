"""The page of ``make compare``, taken apart again as a browser would."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from convlens.cli.compare import run as command
from convlens.config.stored import StoredConfig
from convlens.core.errors import UserError
from convlens.pages.compare import MOST_BYTES, compare, find_differences, shorten_names
from support.maps_made import write_run_with_maps
from support.runs_made import CONFIG, changed, write_run

EVIL = "<script>alert('x')</script>&amp;"
VOID = {"meta", "img", "input"}  # of HTML; in SVG all are closed


class Page(HTMLParser):
    """Tables as rows of (text, classes), pictures by row, every attribute, and all text."""

    def __init__(self, text: str):
        super().__init__()
        self.tables: dict[str, list[list[tuple[str, str]]]] = {}
        self.pictures: list[dict] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.viewers: list[str] = []  # the data of the viewer of maps
        self._open: list[tuple[str, dict]] = []
        self.feed(text)
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        values = {key: value or "" for key, value in attrs}
        self.tags.append(tag)
        self.attributes += list(values.items())
        if tag not in VOID:
            self._open.append((tag, values))
        if tag == "table":
            self._table = self.tables.setdefault(values["class"], [])
        elif tag == "tr":
            self._table.append([])
        elif tag in ("td", "th"):
            self._table[-1].append(("", values.get("class", "")))
        elif tag == "img":
            self.pictures.append(values)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(key, value or "") for key, value in attrs]

    def handle_endtag(self, tag):
        opened, _ = self._open.pop()
        assert opened == tag, f"<{opened}> is closed by </{tag}>"

    def handle_data(self, data):
        inside = [tag for tag, _ in self._open]
        if self._open and self._open[-1][1].get("id") == "viewer-data":
            self.viewers.append(data)
        elif not {"style", "script"} & set(inside):
            self.texts.append(data)
        if inside and {"td", "th"} & set(inside):
            text, classes = self._table[-1][-1]
            self._table[-1][-1] = (text + data, classes)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture
def two(tmp_path) -> list[Path]:
    colours = {"00_cat": "red", "01_dog": "blue"}
    return [
        write_run(tmp_path / "a", [2.0, 1.0, 1.5], probes=colours, seconds=20, test=(0.9, 0.6)),
        write_run(
            tmp_path / "b", [2.0, 1.2, 0.5], probes=colours, seconds=10, test=(0.4, 0.6),
            alarms=("<b>dead</b> layer",), config=changed(CONFIG, optimizer__lr=0.01, seed=1),
        ),
    ]  # fmt: skip


def column(page: Page, heading: str) -> list[tuple[str, str]]:
    head, *rows = page.tables["results"]
    place = [text for text, _ in head].index(heading)
    return [row[place] for row in rows]


def test_results_are_the_runs_and_the_best_is_marked(two):
    page = Page(compare(two))
    assert [text for text, _ in column(page, "run")] == ["a", "b"]
    assert column(page, "epochs") == [("2", ""), ("2", "")]
    assert column(page, "best epoch") == [("1", ""), ("2", "")]
    assert column(page, "val loss") == [("1.0000", ""), ("0.5000", "best")]
    assert column(page, "val accuracy") == [("0.5000", ""), ("0.6667", "best")]
    assert column(page, "test loss") == [("0.9000", ""), ("0.4000", "best")]
    assert column(page, "test accuracy") == [("0.6000", ""), ("0.6000", "")]  # equals
    assert column(page, "seconds") == [("20", ""), ("10", "best")]
    assert column(page, "alarms") == [("0", "best"), ("1", "")]


def test_two_of_three_may_share_the_best(two, tmp_path):
    third = write_run(tmp_path / "c", [2.0, 0.5], seconds=30)
    page = Page(compare([*two, third]))
    assert [mark for _, mark in column(page, "val loss")] == ["", "best", "best"]


def test_exactly_the_differing_keys_are_shown(two):
    page = Page(compare(two))
    head, *rows = page.tables["keys"]
    assert [text for text, _ in head] == ["key", "a", "b"]
    assert sorted([text for text, _ in row] for row in rows) == [
        ["optimizer.lr", "0.001", "0.01"], ["seed", "0", "1"]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({}, []),
        ({"run_dir": "elsewhere"}, []),
        ({"optimizer__lr": 1e-3}, []),
        ({"optimizer__betas": [0.9, 0.99]}, [("optimizer.betas", ["[0.9, 0.999]", "[0.9, 0.99]"])]),
        ({"training__epochs": 2.0}, []),
        ({"training__epochs": None}, [("training.epochs", ["2", "null"])]),
        ({"finetune__phases__1__epochs": 7}, [("finetune.phases.1.epochs", ["1", "7"])]),
        ({"callbacks__grad_cam": None},
         [("callbacks.grad_cam", ["{layers: auto, batch: 32}", "null"])]),
        ({"optimizer__eps": 1e-8}, [("optimizer.eps", ["–", "1e-08"])]),
        ({"optimizer__lr": True}, [("optimizer.lr", ["0.001", "true"])]),
    ],
)  # fmt: skip
def test_what_counts_as_a_difference(values, shown):
    assert (
        find_differences([StoredConfig(CONFIG), StoredConfig(changed(CONFIG, **values))]) == shown
    )


# --- the maps


def read_viewer(page: Page) -> dict:
    (found,) = page.viewers
    return json.loads(found)


@pytest.fixture
def mapped(tmp_path) -> list[Path]:
    """Three images are the same in both runs, under other names; the fourth is not."""
    homes = [
        write_run_with_maps(tmp_path / "maps" / "a", epochs=4, seed=1),
        write_run_with_maps(tmp_path / "maps" / "b", epochs=2, seed=2),
    ]
    table = homes[1] / "probes" / "probes.tsv"
    table.write_text(table.read_text().replace("02_image", "99_other"))
    (homes[1] / "probes" / "02_image.jpg").rename(homes[1] / "probes" / "99_other.jpg")
    Image.new("RGB", (30, 20)).save(homes[1] / "probes" / "03_image.jpg")
    return homes


def test_equal_images_stand_side_by_side_whatever_their_names(mapped):
    page = Page(compare(mapped))
    data = read_viewer(page)
    names = [[probe["name"] for probe in run["probes"]] for run in data["runs"]]
    assert [run["name"] for run in data["runs"]] == ["a", "b"]
    cards = [[names[run][place] for run, place in card] for card in data["cards"]]
    assert cards == [
        ["00_image", "00_image"], ["01_unknown", "01_unknown"], ["02_image", "99_other"]
    ]  # fmt: skip
    line = "because no other run has the same image: 03_image (a), 03_image (b)"
    assert line in page.text
    assert [look["epoch"] for look in data["runs"][1]["methods"]["grad_cam"]["looks"]] == [0, 1, 2]


def test_images_of_two_of_three_runs_are_shown(mapped, tmp_path):
    third = write_run_with_maps(tmp_path / "c", epochs=1, probes=2)
    data = read_viewer(Page(compare([*mapped, third])))
    assert [[run for run, _ in card] for card in data["cards"]] == [[0, 1, 2], [0, 1, 2], [0, 1]]


def test_runs_without_maps_are_named_in_one_line(mapped, two, tmp_path):
    text = compare([mapped[0], two[1], mapped[1]])
    page = Page(text)
    assert page.text.count("no maps in") == 1
    assert [each["name"] for each in read_viewer(page)["runs"]] == ["maps/a", "b", "maps/b"]
    assert [run for run, _ in read_viewer(page)["cards"][0]] == [0, 2]  # colours stay as above
    page = Page(compare([mapped[0], two[1]]))
    assert "two runs with maps are needed" in page.text and not page.viewers
    page = Page(compare(two))
    assert "no maps in a, b" in page.text and not page.viewers and not page.pictures


def test_runs_without_a_common_image_say_so(mapped):
    for number, file in enumerate((mapped[1] / "probes").glob("*.jpg")):
        Image.new("RGB", (20 + number, 20)).save(file)
    page = Page(compare(mapped))
    assert "no two runs have an image in common" in page.text and not page.viewers


def test_two_runs_of_30_epochs_fit_and_what_does_not_is_said(tmp_path):
    homes = [
        write_run_with_maps(tmp_path / name, epochs=30, probes=8, classes=5, seed=seed)
        for seed, name in enumerate("ab")
    ]
    text = compare(homes)
    assert len(text.encode()) <= MOST_BYTES == 3_000_000
    data = read_viewer(Page(text))
    epochs = [
        [look["epoch"] for look in run["methods"]["grad_cam"]["looks"]] for run in data["runs"]
    ]
    assert epochs == [list(range(31))] * 2 and len(data["cards"]) == 8  # nothing is left out
    smaller = compare(homes, most_bytes=800_000)
    assert len(smaller.encode()) <= 800_000 and read_viewer(Page(smaller))
    assert "of 31 epochs, evenly spaced" in Page(smaller).text
    page = Page(compare(homes, most_bytes=100_000))
    assert "the maps do not fit on this page" in page.text and not page.viewers


def test_everything_is_escaped_and_nothing_comes_from_elsewhere(two, tmp_path):
    evil = write_run(
        tmp_path / EVIL.replace("/", "_"), [1.0, 2.0], alarms=(EVIL,),
        config=changed(CONFIG, optimizer__name=EVIL),
    )  # fmt: skip
    maps = [write_run_with_maps(tmp_path / f"<b>{name}", epochs=1) for name in "xy"]
    text = compare([evil, *maps])
    page = Page(text)
    assert page.tags.count("script") == 3 and "b" not in page.tags
    assert page.text.count(EVIL) == 2  # the setting and the alarm
    assert [run["name"] for run in read_viewer(page)["runs"]][1:] == ["<b>x", "<b>y"]
    links = [
        v for k, v in page.attributes if k in ("src", "href", "srcset", "action", "xlink:href")
    ]
    assert all(link.startswith("data:image/jpeg;base64,") for link in links)
    assert not re.search(r"https?://|url\(|@import", text)
    assert any(k == "content" and "default-src 'none'" in v for k, v in page.attributes)


def test_confusion_matrices_stand_side_by_side(two, tmp_path):
    def draw(home, epoch, tag, colour):
        file = home / "explanations" / f"epoch_{epoch:03d}" / f"{tag}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 9), colour).save(file)
        return f"data:image/jpeg;base64,{base64.b64encode(file.read_bytes()).decode()}"

    draw(two[0], 1, "confusion_matrix", "red")
    latest = [draw(two[0], 2, "confusion_matrix", "green"),
              draw(two[1], 1, "confusion_matrix", "blue")]  # fmt: skip
    tested = draw(two[1], 2, "confusion_matrix/test", "white")
    page = Page(compare(two))
    found = [p["src"] for p in page.pictures if p["alt"].startswith("confusion matrix")]
    assert found == [*latest, tested]
    assert "validation, latest epoch a, epoch 2 b, epoch 1" in page.text
    assert "test, best epoch a: no picture b, epoch 2" in page.text


def test_runs_without_confusion_matrices_are_told(two):
    assert "No run has a picture of its confusion matrix." in Page(compare(two)).text


def test_unfinished_runs_are_compared_as_far_as_they_went(two, tmp_path):
    # untrained networks are nobody's best, however lucky
    stopped = write_run(tmp_path / "c", [0.1, 0.25, 0.75], finished=False)
    page = Page(compare([*two, stopped]))
    assert column(page, "val loss")[2] == ("0.2500", "best")
    assert column(page, "best epoch")[2] == ("1", "")
    assert column(page, "test loss")[2] == ("–", "")
    # all of its two epochs, but no summary: it did not come to its test
    assert "trained, not tested; compared by its epochs so far" in page.text


def test_curves_of_all_runs_stand_in_one_chart_under_their_colours(two):
    page = compare(two)
    for tag, first, second in (("val/loss", [2.0, 1.0, 1.5], [2.0, 1.2, 0.5]),):
        chart = page[page.index(f"<strong>{tag}</strong>") :]
        chart = chart[: chart.index("</figure>")]
        line = r'data-name="(\w)" data-values="(.*?)" style="color: var\(--series-(\d)\)"'
        assert re.findall(line, chart) == [
            (name, " ".join(f"{epoch}:{value:.6g}" for epoch, value in enumerate(values)), colour)
            for name, values, colour in (("a", first, "0"), ("b", second, "1"))
        ]
    assert '<span class="swatch series-1"></span>b' in page


def test_names_are_what_tells_the_runs_apart(tmp_path):
    homes = [tmp_path / "x" / "a" / "1", tmp_path / "x" / "b" / "1"]
    assert shorten_names(homes) == ["a/1", "b/1"]
    assert shorten_names([tmp_path / "x", tmp_path / "x" / "y"]) == ["x", "x/y"]


# --- the command


def test_the_command_writes_the_page_and_prints_the_tables(two, at, capsys):
    assert command([f"runs={two[0]} {two[1]}"]) == 0
    printed = capsys.readouterr().out
    (file,) = at.glob("outputs/compare/*/compare.html")
    assert str(file.relative_to(at)) in printed
    assert column(Page(file.read_text()), "val loss")[1] == ("0.5000", "best")
    rows = [line.split() for line in printed.splitlines() if line.startswith("│")]
    table = {row[1]: [cell for cell in row[3:] if cell != "│"] for row in rows}
    assert table["b"][2:4] == ["0.5000", "*"] and "*" not in table["a"][:6]
    assert table["optimizer.lr"] == ["0.001", "0.01"] and table["seed"] == ["0", "1"]
    assert "training.epochs" not in printed


def test_runs_are_named_in_several_ways(at, capsys):
    for number in range(3):
        write_run(at / "outputs" / "scratch" / f"run {number}", [2.0, 1.0 + number])
    words = ["runs='scratch/run 0'", "runs=last", "run_dir=page"]
    assert command(words) == 0
    assert (at / "page" / "compare.html").exists()
    assert command(["runs=outputs/scratch/*", "run_dir=all"]) == 0
    assert len(column(Page((at / "all" / "compare.html").read_text()), "run")) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], 'compare needs runs="A B …"'),
        (["runs=outputs/one"], "at least two runs"),
        (["runs=outputs/one outputs/one"], "outputs/one is given twice"),
        (["runs=outputs/one outputs/ome"], "there is no run folder outputs/ome; did you mean"),
        (["runs=outputs/one empty"], "empty contains no run"),
        (["runs=outputs/one 'x"], "check the quotes"),
        (["runs=outputs/one nothing/*"], "matches no run folder"),
        (["runs=one two", "ran_dir=x"], "ran_dir: compare has no such key; did you mean run_dir"),
        (["runs=one broken"], "metrics.csv, epoch 0: not a table of numbers"),
    ],
)
def test_a_mistake_is_named_in_one_line(at, words, said):
    write_run(at / "outputs" / "one", [2.0, 1.0])
    write_run(at / "outputs" / "two", [2.0, 1.0])
    broken = write_run(at / "broken", [2.0, 1.0])
    (broken / "metrics.csv").write_text("epoch,val/loss\n0,much\n")
    (at / "empty").mkdir()
    with pytest.raises(UserError) as caught:
        command(words)
    assert said in str(caught.value)
    assert not (at / "outputs" / "compare").exists()
