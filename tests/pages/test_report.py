"""``report.html``: one file, whole, true to the run folder, below its size."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from convlens.cli.main import main
from convlens.cli.report import run
from convlens.core.errors import UserError
from convlens.draw.jpeg import encode_jpeg, read_jpeg_size, shrink_jpeg
from convlens.pages.report import LIMIT, report
from convlens.rundir.maps import IMAGE, Maps, write_maps
from support.charts_read import read_back
from support.page_parsed import Page, outside_references

NASTY = '<b>&"x'
CLASSES = (NASTY, "ring")
PROBES = ("00_b", "01_ring")
LAYERS = ("backbone.block1.conv", "backbone.block2.conv")


def _picture(epoch: int, height: int = 20) -> bytes:
    """A picture that tells its epoch by its brightness; smooth, so that JPEG keeps it."""
    return encode_jpeg(np.full((height, 30, 3), 5 * epoch % 250, np.uint8))


def _noise(seed: int, side: int) -> bytes:
    return encode_jpeg(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8))


def made_run(home: Path, epochs: int = 4, *, finished: bool = True, looks: bool = True) -> Path:
    """A run folder such as a training writes, with numbers that a test can tell apart."""
    home.mkdir(parents=True)
    config = {
        "experiment": "scratch<script>", "seed": 3, "precision": "32",
        "optimizer": {"name": "adam", "lr": 0.002}, "scheduler": {"name": "cosine"},
        "training": {"epochs": epochs}, "finetune": {"phases": None},
        "data": {"name": "</pre><script>alert(1)</script>"},
    }  # fmt: skip
    (home / "config.yaml").write_text(yaml.safe_dump(config))
    rng, rows = np.random.default_rng(1), []
    for epoch in range(epochs + 1):
        row = {
            "epoch": epoch, "val/loss": abs(epoch - 2) / 10 + 0.3, "val/accuracy": rng.random(),
            "val/balanced_accuracy": rng.random(), "train/loss": rng.random() + 1,
            "train/accuracy": rng.random(), "lr/model": 0.002 * (epoch > 0) / (epoch + 1),
            **{f"val/f1/{name}": rng.random() for name in CLASSES},
            f"explain/same_place/{NASTY}": rng.random(),
        }  # fmt: skip
        if epoch != 1:
            row["explain/border_energy"] = rng.random()
        rows.append(row)
    with (home / "metrics.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    if finished:
        (home / "summary.json").write_text(json.dumps(_summary(rows)))
    lines = [
        "2026-01-02 03:04:05,678 INFO convlens: training scratch",
        "2026-01-02 03:05:00,000 WARNING convlens: alarm after epoch 2: <i>evidence</i> outside",
    ]
    (home / "train.log").write_text("\n".join(lines))
    if looks:
        (home / "probes").mkdir()
        sources = [f"{name}\tpictures/{NASTY}/{name}.png" for name in PROBES]
        (home / "probes" / "probes.tsv").write_text("\n".join(["probe\tsource", *sources]))
        for epoch in range(epochs + 1):
            for tag in _tags(epoch):
                write(home, epoch, tag, _picture(epoch))
            add_maps(home, epoch, "grad_cam", *(["occlusion"] if epoch % 3 == 1 else []))
    return home


def add_maps(home: Path, epoch: int, *methods: str) -> None:
    """Maps of both probes that tell their epoch."""
    for method in methods:
        values = np.full((2, 1, 3, 3), epoch + 1.0, np.float32)
        layers = {IMAGE if method == "occlusion" else LAYERS[1]: values}
        share = np.full((2, 1), 0.75, np.float32)
        maps = Maps(method, PROBES, ["predicted"], [[NASTY], ["ring"]], share, layers)
        write_maps(home / "explanations" / f"epoch_{epoch:03d}", maps)


def _tags(epoch: int) -> list[str]:
    tags = [f"grad_cam/{probe}" for probe in PROBES]
    tags += [f"layers/activations/{layer}/{PROBES[0]}" for layer in LAYERS]
    tags += ["grad_cam_means", f"layers/filters/{LAYERS[0]}"]
    if epoch:
        tags += ["predictions/confusion_matrix", "predictions/mistakes", "predictions/random"]
    if epoch % 3 == 1:  # a dear callback: epochs 1, 4, …
        tags += [f"occlusion/{PROBES[1]}"]
    if epoch == 2:  # the best epoch, behind the test
        tags += ["predictions/confusion_matrix/test", "predictions/mistakes/test"]
    return tags


def write(home: Path, epoch: int, tag: str, encoded: bytes) -> None:
    file = home / "explanations" / f"epoch_{epoch:03d}" / f"{tag}.jpg"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(encoded)


def _summary(rows: list[dict]) -> dict:
    return {
        "experiment": "scratch", "seed": 3, "epochs": rows[-1]["epoch"], "best_epoch": 2,
        "test": {"loss": 0.5678, "accuracy": 0.8765, "balanced_accuracy": 0.8642,
                 f"f1/{NASTY}": 0.7531, "f1/ring": 0.7247},
        "images_per_second": 123.4, "precision": "32", "processes": 1,
        "seconds": {"total": 60.0, "setup": 1.0, "training": 40.0, "validation": 4.0,
                    "explaining": 15.0},
        "explaining": {"GradCam": 3.25}, "versions": {"torch": "2.99.1"},
        "looking": {"share_of_epochs": 0.0421, "in_epochs": 2.5, "by_epoch": [
            {"epoch": 1, "seconds": 9.5, "looking": 0.5}, {"epoch": 2, "seconds": 8.0,
             "looking": 1.5}]},
        "alarms": [f"{NASTY} is taken for ring"], "failures": ["GradCam failed at epoch 3"],
        "left_out": {"FilterVisuals": "FilterVisuals: the budget allows <3> units"},
    }  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return made_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def text(home) -> str:
    file = report(home)
    assert file == home / "report.html"
    return file.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text) -> Page:
    return Page(text)


def frames(page: Page, tag: str) -> dict[int, bytes]:
    """The pictures of a tag by epoch, decoded from the page."""
    found = {}
    for figure in page.all("figure", data_tag=tag):
        for image in page.inside(figure, "img"):
            head, _, data = image.attributes["src"].partition(",")
            assert head == "data:image/jpeg;base64"
            epoch = int(image.attributes["data-epoch"])
            assert epoch not in found
            found[epoch] = base64.b64decode(data)
    return found


def on_disk(home: Path, tag: str) -> dict[int, bytes]:
    files = home.glob(f"explanations/epoch_*/{tag}.jpg")
    return {int(re.search(r"epoch_(\d+)", str(f))[1]): f.read_bytes() for f in files}


def viewed(page: Page) -> dict:
    """The data of the viewer."""
    (script,) = page.all("script", type="application/json")
    return json.loads(script.text)


def looked_at(page: Page, method: str) -> list[int]:
    """The epochs of which the viewer has maps."""
    return [look["epoch"] for look in viewed(page)["runs"][0]["methods"][method]["looks"]]


def section(page: Page, name: str) -> str:
    (found,) = page.all("section", id=name)
    return found.text


# --- one file


def test_page_asks_nothing_of_any_other_place(text, page):
    assert outside_references(text) == []
    policy = page.all("meta", http_equiv="Content-Security-Policy")[0].attributes["content"]
    assert policy.startswith("default-src 'none'")


def test_the_check_for_outside_references_finds_them():
    for bad in ('<img src="http://a/b.png">', '<p style="background: url(x.png)">x</p>',
                "<script>fetch('https://a')</script>", '<a href="other.html">x</a>',
                '<link rel="stylesheet" href="data:x">'):  # fmt: skip
        assert outside_references(bad), bad


def test_names_of_people_are_escaped(text, page):
    assert NASTY not in text and "<i>evidence" not in text and "alert(1)</script>" not in text
    assert len(page.all("script")) == 3
    assert page.all("h1")[0].text == "scratch<script>"
    f1 = page.all("table", id="f1")[0]
    assert [cell.text for cell in page.inside(f1, "td") if cell.text in CLASSES] == list(CLASSES)
    assert viewed(page)["runs"][0]["probes"][0]["source"] == f"pictures/{NASTY}/00_b.png"
    assert "</pre><script>alert(1)</script>" in section(page, "config")


def test_page_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    home = made_run(tmp_path / "run", looks=False)
    report(home)
    before = (home / "report.html").read_bytes()

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("convlens.core.files.os.replace", full)
    with pytest.raises(OSError, match="no space"):
        report(home)
    assert (home / "report.html").read_bytes() == before
    assert not list(home.glob(".report*"))


# --- what stands on it


def test_sections_stand_in_the_order_a_reader_asks(page):
    names = [e.attributes["id"] for e in page.all("section")]
    assert names == ["curves", "schedule", "results", "confusion", "mistakes", "probes", "layers",
                     "scores", "data", "cost", "versions", "omitted", "config"]  # fmt: skip
    (nav,) = page.all("nav")
    links = [a.attributes["href"].removeprefix("#") for a in page.inside(nav, "a")]
    assert links == names


def test_head_tells_result_date_and_alarms(home, page):
    (header,) = page.all("header")
    rows = list(csv.DictReader((home / "metrics.csv").open()))
    assert "2026-01-02 03:04" in header.text
    assert f"validation accuracy {float(rows[2]['val/accuracy']):.3f} after epoch 2" in header.text
    assert "test accuracy 0.876" in header.text or "test accuracy 0.877" in header.text
    alarms = [e.text for e in page.all("p") if e.has_class("alarm")]
    assert alarms == [f"{NASTY} is taken for ring", "GradCam failed at epoch 3"]
    assert "no alarm" not in header.text


def test_charts_hold_the_numbers_of_the_table(home, text):
    rows = list(csv.DictReader((home / "metrics.csv").open()))
    charts = {}
    for chart in re.findall(r'<figure class="chart".*?</figure>', text, re.S):
        charts[re.search(r"<strong>(.*?)</strong>", chart)[1]] = read_back(chart)
    wanted = {
        ("loss", "training"): "train/loss", ("loss", "validation"): "val/loss",
        ("accuracy", "training"): "train/accuracy", ("accuracy", "validation"): "val/accuracy",
        ("learning rate at the end of each epoch", "model"): "lr/model",
        ("border energy", "border_energy"): "explain/border_energy",
        ("same place", NASTY): f"explain/same_place/{NASTY}",
    }  # fmt: skip
    for (chart, line), tag in wanted.items():
        numbers = {int(row["epoch"]): float(row[tag]) for row in rows if row[tag]}
        assert charts[chart][line] == pytest.approx(numbers, abs=2e-4), tag
    assert charts["seconds per epoch"]["explanations"] == pytest.approx({1: 0.5, 2: 1.5}, abs=2e-3)


def test_results_are_those_of_the_run(home, page):
    rows = list(csv.DictReader((home / "metrics.csv").open()))
    (results,) = page.all("section", id="results")
    table = page.inside(results, "table")[0]
    cells = [[c.text for c in page.inside(row, "td")] for row in page.inside(table, "tr")][1:]
    names = ("loss", "accuracy", "balanced_accuracy")
    for (label, *found), (epoch, stage) in zip(
        cells[:3], ((4, "train"), (2, "val"), (4, "val")), strict=True
    ):
        assert f"epoch {epoch}" in label
        values = [rows[epoch].get(f"{stage}/{name}") for name in names]
        assert found == [f"{float(value):.4f}" if value else "" for value in values]
    assert cells[3] == ["test, epoch 2 (best)", "0.5678", "0.8765", "0.8642"]
    f1 = [[c.text for c in page.inside(row, "td")] for row in page.inside(
        page.all("table", id="f1")[0], "tr")][1:]  # fmt: skip
    for (name, best, last, test), tested in zip(f1, (0.7531, 0.7247), strict=True):
        assert float(best) == pytest.approx(float(rows[2][f"val/f1/{name}"]), abs=1e-4)
        assert float(last) == pytest.approx(float(rows[4][f"val/f1/{name}"]), abs=1e-4)
        assert float(test) == tested


def test_calibration_has_a_section_with_what_validation_supports(tmp_path):
    home = made_run(tmp_path / "run", looks=False)
    row = {
        "threshold": 0.8123,
        "coverage": 0.9512,
        "test_coverage": 0.9134,
        "test_precision": 0.9876,
    }
    found = {
        "temperature": 1.2345, "images": 150, "ece": 0.0711, "ece_calibrated": 0.0122,
        "test_ece": 0.0833, "test_ece_calibrated": 0.0144, "abstain": {"0.95": row, "0.99": None},
    }  # fmt: skip
    summary = json.loads((home / "summary.json").read_text())
    details = {"images": 90, "samples": 9, "scores": {}, "classes": {}, "calibration": found}
    (home / "summary.json").write_text(json.dumps({**summary, "test_details": details}))
    write(home, 3, "predictions/reliability", _picture(3))
    page = Page(report(home).read_text(encoding="utf-8"))
    tables = [
        [[c.text for c in page.inside(each, "td")] for each in page.inside(table, "tr")][1:]
        for table in page.inside(page.all("section", id="calibration")[0], "table")
    ]
    assert tables[0] == [["validation", "0.0711", "0.0122"], ["test", "0.0833", "0.0144"]]
    assert tables[1] == [["95 %", "0.8123", "95.1 %", "91.3 %", "98.8 %"],
                         ["99 %", "validation does not support it"]]  # fmt: skip
    assert "The temperature 1.23, by which" in section(page, "calibration")
    assert list(frames(page, "predictions/reliability")) == [3]


def test_slices_have_a_section_only_if_some_were_found(tmp_path, page):
    home = made_run(tmp_path / "run", looks=False)
    for epoch in (2, 3):
        write(home, epoch, "predictions/slices", _picture(epoch))
    found = Page(report(home).read_text(encoding="utf-8"))
    assert f"convlens shortcuts run={home}" in section(found, "slices")
    assert list(frames(found, "predictions/slices")) == [3]
    assert found.all("a", href="#slices") and not page.all("a", href="#slices")


def test_every_probe_is_there_at_every_epoch_it_was_looked_at(page):
    assert [probe["name"] for probe in viewed(page)["runs"][0]["probes"]] == list(PROBES)
    assert looked_at(page, "grad_cam") == [0, 1, 2, 3, 4]
    assert looked_at(page, "occlusion") == [1, 4]
    # the pictures that show the same are not there a second time
    assert not frames(page, "grad_cam/00_b") and not frames(page, "occlusion/01_ring")


def test_one_slider_reaches_from_the_untrained_network_to_the_last_epoch(page):
    (slider,) = page.all("input", id="clock")
    found = slider.attributes
    assert (found["type"], found["min"], found["max"], found["step"]) == ("range", "0", "4", "1")
    assert found["value"] == "4" and found["aria-label"] == "epoch"


def test_activations_and_filters_are_folded(page):
    for start in ("layers/activations/", "layers/filters/"):
        figures = [
            e for e in page.all("figure") if e.attributes.get("data-tag", "").startswith(start)
        ]
        assert figures
        for figure in figures:
            folds = [e for e in figure.above if e.tag == "details"]
            assert folds and "open" not in folds[-1].attributes


def test_pictures_are_the_latest_and_class_means_and_filters_the_first_and_the_latest(home, page):
    for tag, epochs in (*((f"layers/activations/{layer}/00_b", [4]) for layer in LAYERS),
                        ("predictions/confusion_matrix", [4]),
                        ("predictions/confusion_matrix/test", [2]),
                        ("predictions/mistakes", [4]), ("predictions/mistakes/test", [2]),
                        ("grad_cam_means", [0, 4]),
                        (f"layers/filters/{LAYERS[0]}", [0, 4])):  # fmt: skip
        disk = on_disk(home, tag)
        assert frames(page, tag) == {epoch: disk[epoch] for epoch in epochs}, tag


def test_pictures_of_many_epochs_are_a_film_with_its_first_and_its_latest_picture(tmp_path):
    home, tag = made_run(tmp_path / "run", epochs=40), "layers/feature_space"
    for epoch in range(3, 41):
        write(home, epoch, tag, _picture(epoch))
    page = Page(report(home).read_text())
    shown, disk = frames(page, tag), on_disk(home, tag)
    assert len(shown) == 12 and min(shown) == 3 and max(shown) == 40
    gaps = {later - earlier for earlier, later in pairwise(shown)}
    assert gaps == {3, 4}
    assert shown == {epoch: disk[epoch] for epoch in shown}
    (film,) = page.all("figure", data_tag=tag)
    images = page.inside(film, "img")
    # without a script only the latest is there; the script brings the slider
    assert [i for i, image in enumerate(images) if "hidden" not in image.attributes] == [11]
    (slider,) = page.inside(film, "input")
    assert (slider.attributes["max"], slider.attributes["value"]) == ("11", "11")
    assert any(part.attributes.get("id") == "probes" for part in film.above)
    for epoch in range(3, 40):
        (home / "explanations" / f"epoch_{epoch:03d}" / f"{tag}.jpg").unlink()
    page = Page(report(home).read_text())
    (film,) = page.all("figure", data_tag=tag)
    assert list(frames(page, tag)) == [40] and not page.inside(film, "input")


def test_pictures_keep_their_room_before_they_are_decoded(home, page):
    for image in page.all("img"):
        size = int(image.attributes["width"]), int(image.attributes["height"])
        encoded = base64.b64decode(image.attributes["src"].partition(",")[2])
        assert size == Image.open(io.BytesIO(encoded)).size == read_jpeg_size(encoded)


def test_cost_and_versions_are_told(page):
    cost = section(page, "cost")
    for text in ("4.2 %", "2.5 s", "GradCam", "3.25"):
        assert text in cost
    assert "2.99.1" in section(page, "versions") and "123 images/s" in section(page, "versions")


def test_what_is_left_out_and_the_config_are_folded_at_the_end(page):
    assert [e.attributes["id"] for e in page.all("section")][-2:] == ["omitted", "config"]
    for name, text in (("omitted", "the budget allows <3> units"), ("config", "experiment:")):
        (part,) = page.all("section", id=name)
        (fold,) = page.inside(part, "details")
        assert text in fold.text and "open" not in fold.attributes


def test_nothing_left_out_means_nothing_said(tmp_path, page):
    assert not page.all("details", id="left-out")
    home = made_run(tmp_path / "run", looks=False)
    summary = json.loads((home / "summary.json").read_text())
    (home / "summary.json").write_text(json.dumps({**summary, "left_out": {}}))
    assert not Page(report(home).read_text()).all("section", id="omitted")


def test_scores_of_the_last_look_have_a_table(tmp_path):
    """A score that is measured once has no curve; earlier versions kept it in the summary only."""
    home = made_run(tmp_path / "run", looks=False)
    with (home / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["explain/randomised/head"] = "0.1234" if row["epoch"] == "4" else ""
    with (home / "metrics.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    summary = json.loads((home / "summary.json").read_text())
    scores = {"border_energy": 0.5, "randomised/head": 0.1234, "randomised/top": 0.9876}
    (home / "summary.json").write_text(json.dumps({**summary, "scores": scores}))
    page = Page(report(home).read_text())
    (table,) = page.all("table", id="measured-once")
    cells = [[c.text for c in page.inside(row, "td")] for row in page.inside(table, "tr")]
    assert sorted(cells) == [["randomised/head", "0.1234"], ["randomised/top", "0.9876"]]
    drawn = [e.attributes["data-name"] for e in page.all("g") if "data-name" in e.attributes]
    assert "border_energy" in drawn and "head" not in drawn


def test_colours_of_lines_are_defined_for_light_and_dark(text, page):
    style = page.all("style")[0].text
    light, dark = style.split("prefers-color-scheme: dark", 2)[0::2]
    # set where they are used, by elements or the script; they are no colours
    sizes = {"--at", "--panes", "--shape", "--tall"}
    for name in set(re.findall(r"var\((--[\w-]+)\)", text)) - sizes:
        assert style.count(f"{name}:") == 2, name
    assert "--series-0:" in light + dark


# --- other runs


def test_unfinished_run_says_so_and_tells_the_alarms_of_its_log(tmp_path):
    page = Page(report(made_run(tmp_path / "run", finished=False)).read_text())
    (header,) = page.all("header")
    assert "not finished: 4 of 4 epochs" in header.text and "convlens resume" in header.text
    assert "alarm after epoch 2: <i>evidence</i> outside" in header.text
    assert "test accuracy" not in header.text
    assert "after epoch 2" in header.text  # the best of the table
    assert looked_at(page, "grad_cam") == [0, 1, 2, 3, 4]


def test_run_without_explanations_or_alarms(tmp_path):
    home = made_run(tmp_path / "run", looks=False)
    summary = json.loads((home / "summary.json").read_text())
    (home / "summary.json").write_text(json.dumps({**summary, "alarms": [], "failures": []}))
    page = Page(report(home).read_text())
    assert "no alarm" in page.all("header")[0].text
    assert not page.all("img") and not page.all("input")
    assert len(page.all("script")) == 1  # of the charts
    assert "no maps of probes" in section(page, "probes")
    assert page.all("section", id="scores")


def test_run_that_has_only_the_untrained_network(tmp_path):
    page = Page(report(made_run(tmp_path / "run", epochs=0, finished=False)).read_text())
    assert "no epoch is complete yet" in page.all("header")[0].text
    assert looked_at(page, "grad_cam") == [0]


def test_run_of_an_earlier_version_shows_its_latest_pictures(tmp_path):
    home = made_run(tmp_path / "run")
    for file in home.glob("explanations/*/maps.safetensors"):
        file.unlink()
    page = Page(report(home).read_text())
    assert "made before maps were kept as numbers" in section(page, "probes")
    assert not page.all("script", type="application/json") and not page.all("input")
    disk = {tag: on_disk(home, tag) for tag in ("grad_cam/00_b", "grad_cam/01_ring")}
    assert {tag: frames(page, tag) for tag in disk} == {tag: {4: d[4]} for tag, d in disk.items()}


def test_a_method_without_maps_shows_its_latest_picture_beside_the_viewer(tmp_path):
    home = made_run(tmp_path / "run")
    for epoch in (1, 3):
        write(home, epoch, "mine/01_ring", _picture(epoch))
    page = Page(report(home).read_text())
    assert frames(page, "mine/01_ring") == {3: on_disk(home, "mine/01_ring")[3]}
    assert looked_at(page, "grad_cam") == [0, 1, 2, 3, 4]


def test_phases_are_told_and_marked(tmp_path):
    home = made_run(tmp_path / "run", looks=False)
    config = yaml.safe_load((home / "config.yaml").read_text())
    phase = {"train": ["head"], "warmup_epochs": 0.0, "until": None, "augment": False}
    config["finetune"]["phases"] = [
        {**phase, "epochs": 3, "lr": {"head": 0.001}},
        {**phase, "epochs": 3, "train": ["head", "top"], "lr": {"head": 1e-4, "top": 1e-5}},
    ]
    config["training"]["epochs"] = 6
    (home / "config.yaml").write_text(yaml.safe_dump(config))
    page = Page(report(home).read_text())
    (schedule,) = page.all("section", id="schedule")
    rows = [[c.text for c in page.inside(r, "td")] for r in page.inside(schedule, "tr")][1:]
    assert [row[:4] for row in rows] == [
        ["1", "1–3", "head", "0.001"], ["2", "4–6", "head", "0.0001"], ["", "", "top", "1e-05"]
    ]  # fmt: skip
    texts = [e.text for e in page.all("text")]
    assert texts.count("phase 2") >= 3


def test_truncated_picture_of_a_killed_run_is_left_out_and_named(tmp_path):
    home = made_run(tmp_path / "run")
    write(home, 4, "predictions/random", _picture(3)[:-10])
    write(home, 4, "grad_cam_means", b"")
    page = Page(report(home).read_text())
    assert not frames(page, "predictions/random")
    assert list(frames(page, "grad_cam_means")) == [0]
    told = [e.text for e in page.all("p") if e.has_class("alarm") and "JPEG" in e.text]
    assert [line.partition("explanations/")[2] for line in told] == [
        "epoch_004/grad_cam_means.jpg", "epoch_004/predictions/random.jpg"
    ]  # fmt: skip
    assert not page.all("details", id="left-out")


# --- the size


def _grown(home: Path, side: int) -> Path:
    """A run with pictures of noise, which JPEG cannot make small."""
    made_run(home)
    for file in home.glob("explanations/*/**/*.jpg"):
        file.write_bytes(_noise(len(str(file)), side))
    return home


def test_too_many_epochs_are_thinned_out_evenly_and_keep_first_and_last(tmp_path):
    home = made_run(tmp_path / "run", 300)
    whole = report(home, limit=LIMIT).stat().st_size
    text = report(home, limit=whole - 50_000).read_text()
    assert len(text.encode()) <= whole - 50_000
    page = Page(text)
    found = looked_at(page, "grad_cam")
    assert 16 <= len(found) < 301 and {0, 300} <= set(found)
    told = page.all("details", id="left-out")[0].text
    assert f"maps: those of {len(found)} of 301 epochs" in told
    gaps = np.diff(found)
    assert gaps.max() - gaps.min() <= 1
    assert page.all("input", id="clock")[0].attributes["max"] == "300"


def test_activations_and_filters_shrink_before_they_are_left_out(tmp_path):
    home = made_run(tmp_path / "run")
    bare = report(home).stat().st_size
    for file in home.glob("explanations/*/layers/activations/**/*.jpg"):
        file.write_bytes(_noise(len(str(file)), 1500))
    limit = bare + 1_600_000
    text = report(home, limit=limit).read_text()
    assert len(text.encode()) <= limit
    page = Page(text)
    for layer in LAYERS:
        (encoded,) = frames(page, f"layers/activations/{layer}/00_b").values()
        assert max(read_jpeg_size(encoded)) == 900
    told = page.all("details", id="left-out")[0].text
    assert "layers/activations and layers/filters: at most" in told and "of 2 pictures" not in told
    assert list(frames(page, "predictions/confusion_matrix")) == [4]
    assert looked_at(page, "grad_cam") == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kilobytes", [110, 150, 400])
def test_any_limit_is_kept_and_what_is_left_out_is_told(tmp_path, kilobytes):
    home = _grown(tmp_path / "run", 400)
    text = report(home, limit=1000 * kilobytes).read_text()
    assert len(text.encode()) <= 1000 * kilobytes
    page = Page(text)
    told = page.all("details", id="left-out")[0].text
    shown = [e.attributes["data-tag"] for e in page.all("figure") if "data-tag" in e.attributes]
    for tag in set(_tags(4)) - {"grad_cam/00_b", "grad_cam/01_ring", "occlusion/01_ring"}:
        assert tag in shown or tag.partition("/")[0] in told, tag
    assert looked_at(page, "grad_cam") == [0, 1, 2, 3, 4]


def test_no_limit_takes_away_text_and_charts(tmp_path):
    home = _grown(tmp_path / "run", 90)
    page = Page(report(home, limit=1).read_text())
    assert not page.all("img") and not page.all("input") and len(page.all("path")) > 10
    told = page.all("details", id="left-out")[0].text
    assert "all maps: grad_cam, occlusion" in told and "pictures: layers/activations" in told
    assert "did not fit" in section(page, "probes")


def test_shrunk_pictures_are_smaller_and_alike():
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 255, 300)[None, :, None] * np.ones((200, 1, 3))
    encoded = encode_jpeg((ramp + rng.normal(0, 8, ramp.shape)).clip(0, 255).astype(np.uint8))
    small = shrink_jpeg(encoded, 150, 60)
    assert len(small) < len(encoded) / 3 and read_jpeg_size(small) == (150, 100)
    pixels = np.asarray(Image.open(io.BytesIO(small)).convert("RGB")).astype(float)
    blocks = ramp.reshape(100, 2, 150, 2, 3).mean((1, 3))
    assert np.abs(pixels - blocks).mean() < 4
    # what would not become smaller stays as it is
    assert shrink_jpeg(small, 150, 95) == small


# --- the command


def test_command_prints_file_and_size(tmp_path, capsys):
    home = made_run(tmp_path / "run")
    assert run([f"run={home}"]) == 0
    out = capsys.readouterr().out
    file = home / "report.html"
    assert str(file) in out and f"{file.stat().st_size / 1e6:.1f} MB" in out


def test_last_is_the_newest_run(at, capsys):
    home = made_run(at / "outputs" / "scratch" / "a")
    assert main(["report", "run=last"]) == 0
    assert (home / "report.html").exists()
    newer = made_run(at / "outputs" / "scratch" / "b")
    (newer / "metrics.csv").unlink()  # not one epoch yet
    os.utime(newer / "config.yaml", (2_000_000_000,) * 2)
    (home / "report.html").unlink()
    assert main(["report", "run=last"]) == 0
    assert (home / "report.html").exists()
    said = capsys.readouterr().out
    assert "last is outputs/scratch/a: the newer outputs/scratch/b has no metrics.csv yet" in said


@pytest.mark.parametrize("name", ["", "nowhere", "empty", "broken", "rows", "early"])
def test_mistakes_get_one_line(tmp_path, name):
    for folder in ("empty", "broken"):
        (tmp_path / folder).mkdir()
    (tmp_path / "broken" / "config.yaml").write_text("a: [1")
    (made_run(tmp_path / "rows", looks=False) / "metrics.csv").write_text("epoch,val/loss\n0,x\n")
    (made_run(tmp_path / "early", looks=False) / "metrics.csv").unlink()
    said = {"": "no run", "nowhere": "no run folder", "empty": "no config.yaml",
            "broken": "readable", "rows": "epoch 0: not a table of numbers",
            "early": "no row in metrics.csv yet"}  # fmt: skip
    with pytest.raises(UserError) as error:
        report(tmp_path / name)
    assert said[name] in str(error.value) and "\n" not in str(error.value)
    assert str(tmp_path / name) in str(error.value)


def test_command_names_what_is_missing_or_unknown(at):
    for words, said in (([], "run="), (["rum=x"], "run"), (["run=last"], "no run in outputs/")):
        with pytest.raises(UserError, match=said):
            run(words)
