"""The page of ``make compare``, taken apart again as a browser would."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from convlens.cli.compare import run as command
from convlens.config.stored import StoredConfig
from convlens.core.errors import UserError
from convlens.pages.compare import compare, find_differences, shorten_names
from support.runs_made import CONFIG, changed, write_run

EVIL = "<script>alert('x')</script>&amp;"
VOID = {"meta", "img"}  # of HTML; in SVG all are closed


class Page(HTMLParser):
    """Tables as rows of (text, classes), pictures by row, every attribute, and all text."""

    def __init__(self, text: str):
        super().__init__()
        self.tables: dict[str, list[list[tuple[str, str]]]] = {}
        self.pictures: list[dict] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
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
        if "style" not in inside:
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


def test_probes_stand_side_by_side_at_the_last_epoch(two):
    page = Page(compare(two))
    assert len(page.pictures) == 4
    colours = []
    for picture in page.pictures:
        kind, _, data = picture["src"].partition(",")
        assert kind == "data:image/jpeg;base64"
        drawn = Image.open(io.BytesIO(base64.b64decode(data)))
        assert drawn.size == (10, 8)  # the last epoch's; the first one's is narrower
        red, _, blue = drawn.getpixel((4, 4))
        colours.append("red" if red > blue else "blue")
    assert colours == ["red", "red", "blue", "blue"]
    assert [p["alt"][-1] for p in page.pictures] == ["a", "b", "a", "b"]
    assert "00_cat a, epoch 2 b, epoch 2 01_dog a, epoch 2 b, epoch 2" in page.text
    assert "not the same image" not in page.text


def test_probes_that_differ_are_told(two, tmp_path):
    third = write_run(tmp_path / "c", [2.0, 1.0], probes={"00_cat": "green", "02_emu": "red"})
    page = Page(compare([*two, third]))
    assert len(page.pictures) == 3
    assert "different probes; left out, because not all runs have them: 01_dog, 02_emu" in page.text
    assert page.text.count("none of these probes is the same image in all runs") == 1
    assert "not the same image" not in page.text
    one = write_run(tmp_path / "e", [2.0, 1.0], probes={"00_cat": "green", "01_dog": "blue"})
    page = Page(compare([two[0], one]))
    assert "00_cat not the same image in all runs" in page.text
    assert page.text.count("the same image in all runs") == 1
    none = write_run(tmp_path / "d", [2.0, 1.0])
    page = Page(compare([two[0], none]))
    assert "no Grad-CAM pictures in d" in page.text and not page.pictures


def test_later_probes_are_left_out_of_a_page_that_grows_too_large(two):
    sizes = [(home / "explanations/epoch_002/grad_cam/00_cat.jpg").stat().st_size for home in two]
    page = Page(compare(two, most_bytes=sum(sizes) * 4 // 3 + 10))
    assert [p["alt"] for p in page.pictures] == [f"Grad-CAM of 00_cat in {run}" for run in "ab"]
    assert "MB: 01_dog; see explanations/" in page.text


def test_everything_is_escaped_and_nothing_comes_from_elsewhere(two, tmp_path):
    evil = write_run(
        tmp_path / EVIL.replace("/", "_"), [1.0, 2.0], alarms=(EVIL,),
        config=changed(CONFIG, optimizer__name=EVIL), probes={"00_<b>cat": "red"},
    )  # fmt: skip
    also = write_run(tmp_path / "also", [1.0, 2.0], probes={"00_<b>cat": "red"})
    text = compare([evil, also])
    page = Page(text)
    assert page.tags.count("script") == 1 and "b" not in page.tags
    assert page.text.count(EVIL) == 2  # the setting and the alarm
    assert "00_<b>cat" in page.text
    links = [
        v for k, v in page.attributes if k in ("src", "href", "srcset", "action", "xlink:href")
    ]
    assert links and all(link.startswith("data:image/jpeg;base64,") for link in links)
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
