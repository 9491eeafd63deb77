"""Mistakes and random images: whose photographs, names, probabilities and maps a sheet shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from convlens.callbacks import Mistakes
from convlens.callbacks import mistakes as module_under_test
from convlens.callbacks.look import Look
from convlens.callbacks.predictions import PredictionBook
from convlens.callbacks.session import gather_context
from PIL import Image

from convlens.config.compose import compose
from convlens.core.photograph import Photograph
from convlens.data.datamodule import PictureData
from convlens.data.probes import choose_probes
from convlens.draw.grad_cam_panel import ClassMap, draw_evidence, evidence_sheet
from convlens.draw.jpeg import encode_jpeg
from convlens.experiment.module import build_module
from support.looks import FakeClock
from support.pictures_made import photo
from support.places import ROOT
from support.tiny import TINY

NAMES = ("cats", "dogs")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("photographs")
    for split in ("train", "validation", "test"):
        for k, name in enumerate(NAMES):
            (home / split / name).mkdir(parents=True)
            for number in range(6):
                image = photo(60 + 10 * number, 40, seed=100 * k + number + len(split))
                image.save(home / split / name / f"{name}_{number}.png")
    return home


def make_look(*words: str) -> Look:
    """A look at the validation images of a run: every second class is wrong."""
    config = compose([*(w for w in TINY if not w.startswith("data.pictures")), *words])
    data = PictureData(config.data, seed=0, batch_size=4, eval_batch_size=4)
    module = build_module(config, list(data.class_names))
    network = module.model.eval()
    images = data.dataset.splits["validation"]
    book = PredictionBook()
    book.begin(hold=False)
    with torch.no_grad():
        for batch in data.evaluation_loader("validation"):
            moved = data.finish(batch)
            book.take({"logits": network(moved["image"])}, moved)
    book.end("val")
    probes = choose_probes(images, data.class_names, count=2, seed=0, spec=config.data)
    answers = book.latest["val"]
    return Look(
        network, probes, data.class_names, 1, False, float("inf"), 0, predictions=answers,
        **gather_context(data, module, "val", answers),
    )  # fmt: skip


def attached(callback: Mistakes, look: Look) -> Mistakes:
    callback.attach(look.probes, look.class_names, None, 0)
    return callback


@pytest.fixture
def drawn(monkeypatch) -> dict[str, list]:
    """What is given to the rows of the sheet of mistakes, and to other sheets by title."""
    found: dict[str, list] = {"rows": []}

    def row(photograph, maps, *, source, edge):
        assert edge == 224
        found["rows"].append((photograph, maps, source))
        return np.zeros((8, 8, 3), np.uint8)

    def sheet(entries, *, title, **_):
        found[title.split(" ·")[0]] = entries
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr(module_under_test, "draw_evidence", row)
    monkeypatch.setattr(module_under_test, "picture_sheet", sheet)
    return found


@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_mistakes_are_photographs_with_names_probabilities_and_captums_maps(folder, drawn, resize):
    look = make_look("data=image_folder", f"data.dir={folder}", f"data.resize={resize}")
    assert [tag for tag, _ in attached(Mistakes(mistakes=4), look).pictures(look)] == [
        "predictions/mistakes", "predictions/random", "predictions/breakdown",
    ]  # fmt: skip
    answers = look.predictions
    chosen = answers.mistakes(4)
    assert 0 < len(drawn["rows"]) == len(chosen)
    layer = look.network.backbone.block2.activation
    for index, (photograph, maps, source) in zip(chosen, drawn["rows"], strict=True):
        file = Path(source)
        assert file.parent.name == NAMES[answers.labels[index]]
        assert (photograph.picture == np.asarray(Image.open(file))).all()
        assert "16×16" in photograph.seen and (photograph.frame[0] > 0) == (resize == "crop")
        assert [each.role for each in maps] == ["predicted", "true"]
        images, _ = look.fetch([answers.rows[index]])
        shares = look.network(images).softmax(1)[0].detach()
        for each in maps:
            target = NAMES.index(each.class_name)
            assert each.probability == pytest.approx(float(shares[target]), abs=1e-5)
            theirs = LayerGradCam(look.network, layer).attribute(
                images, target, relu_attributions=True
            )
            torch.testing.assert_close(each.map, theirs[0, 0].detach(), atol=1e-5, rtol=0)


def test_random_images_carry_their_files_and_stay_the_same(folder, drawn):
    look = make_look("data=image_folder", f"data.dir={folder}")
    list(attached(Mistakes(random=5), look).pictures(look))
    entries = drawn["random images"]
    assert len({entry.source for entry in entries}) == 5
    for entry in entries:
        assert (entry.image.picture == np.asarray(Image.open(entry.source))).all()
        name = Path(entry.source).parent.name
        assert (name in entry.captions[0]) == entry.correct
        assert entry.correct or f"true {name} 0." in entry.captions[1]
    list(attached(Mistakes(random=5), look).pictures(replace(look, clock=7)))
    assert [entry.source for entry in drawn["random images"]] == [each.source for each in entries]


def test_images_without_files_are_shown_as_the_network_gets_them(drawn):
    look = make_look("data.pictures=60")
    list(attached(Mistakes(mistakes=2, random=3), look).pictures(look))
    assert len(drawn["rows"]) == 2 and len(drawn["random images"]) == 3
    for photograph, _, source in drawn["rows"]:
        assert source.startswith("shapes/validation/") and photograph.picture.shape == (16, 16, 3)


def test_another_projects_images_are_shown_as_they_are(folder, drawn):
    look = make_look("data=image_folder", f"data.dir={folder}")
    look = replace(look, photographs=None, sources=None)
    list(attached(Mistakes(mistakes=2), look).pictures(look))
    for photograph, _, source in drawn["rows"]:
        assert photograph.shape == (3, 16, 16) and source == ""


def test_a_network_without_feature_maps_shows_its_mistakes_without_maps(folder, drawn):
    look = make_look("data=image_folder", f"data.dir={folder}", "model.filters=[]")
    list(attached(Mistakes(mistakes=3), look).pictures(look))
    entries = drawn["most confident mistakes"]
    assert not drawn["rows"] and 0 < len(entries) <= 3
    assert all(entry.correct is False and Path(entry.source).is_file() for entry in entries)


def test_reading_photographs_counts_as_time_of_the_look(folder, drawn, monkeypatch):
    look = make_look("data=image_folder", f"data.dir={folder}")
    clock, read = FakeClock(monkeypatch), look.photographs
    slow = lambda rows, images: (clock.spend(0.25 * len(rows)), read(rows, images))[1]  # noqa: E731
    look = replace(look, photographs=slow)
    callback, total = attached(Mistakes(random=0), look), len(look.predictions.mistakes(8))
    assert total >= 3

    def draw(seconds: float) -> int:
        drawn["rows"].clear()
        callback.cut = ""
        list(callback.pictures(replace(look, deadline=clock.now + seconds)))
        return len(drawn["rows"])

    assert draw(0.1) == 1 and callback.cut  # timed: of the first it is not known what it takes
    assert draw(0.1) == 0 and callback.cut
    assert draw(0.6) == 2 and callback.cut
    assert draw(60) == total and not callback.cut


def test_sheets_are_drawn(folder):
    look = make_look("data=image_folder", f"data.dir={folder}", "data.resize=crop")
    sheets = dict(attached(Mistakes(mistakes=3), look).pictures(look))
    mistakes = sheets["predictions/mistakes"]
    assert mistakes.shape[1] > 3 * 260 and all(sheet.std() > 10 for sheet in sheets.values())


def test_a_sheet_of_mistakes_takes_few_bytes_for_each_image():
    """Eight photographs, each alone and under two maps: 24 images of at most 224 pixels."""
    rng = np.random.default_rng(0)
    with Image.open(ROOT / "tests" / "photographs" / "coffee.jpg") as opened:
        photograph = Photograph(np.asarray(opened.convert("RGB")))
    maps = [
        ClassMap(rng.random((14, 14)), "cat", "predicted", 0.7),
        ClassMap(rng.random((14, 14)), "dog", "true", 0.2),
    ]
    rows = [draw_evidence(photograph, maps, edge=224) for _ in range(8)]
    sheet = evidence_sheet(rows, title="mistakes")
    assert Mistakes.photographs and len(encode_jpeg(sheet, photographs=True)) < 24 * 20_000
