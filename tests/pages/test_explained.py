"""The page of ``explain``: what is on it, at what size, and what is said to be missing."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from convlens.core.photograph import Photograph
from convlens.draw.jpeg import encode_jpeg
from convlens.pages.explained import MOST_BYTES, PageParts, render_page
from convlens.rundir.maps import IMAGE, Maps
from support.page_parsed import Page, outside_references

FRAME = (0.1, 0.0, 0.9, 1.0)
TOP = [("cat", 0.9), ("dog", 0.004)]


def make_maps(seed: int, *, roles=("predicted",), side: int = 7) -> list[Maps]:
    rng = np.random.default_rng(seed)
    size = (1, len(roles), side, side)
    facts = (["x"], roles, [["cat"] * len(roles)], np.full((1, len(roles)), 0.9, np.float32))
    return [
        Maps("grad_cam", *facts, {"conv": rng.random(size, np.float32)}),
        Maps("occlusion", *facts, {IMAGE: rng.standard_normal(size).astype(np.float32)}),
    ]


def add(parts: PageParts, name: str, seed: int, *, roles=("predicted",), layers: int = 0, **more):
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 255, (96, 128, 3), np.uint8)
    grid = encode_jpeg(rng.integers(0, 255, (200, 200, 3), np.uint8))
    panels = {f"layers/activations/{layer}": grid for layer in range(layers)}
    maps = make_maps(seed, roles=roles)
    parts.add(
        name, f"pictures/{name}.jpg", panels={"grad_cam": grid, **panels}, top=TOP,
        photograph=Photograph(noise, FRAME, "cropped"), maps=maps, **more,
    )  # fmt: skip
    return maps


def show(parts: PageParts, **more) -> tuple[str, Page, dict]:
    text = render_page(parts, heading="pictures", network="net", version="1", **more)
    page = Page(text)
    found = page.all("script", id="viewer-data")
    return text, page, json.loads(found[0].text) if found else {}


def test_maps_of_all_images_are_in_one_viewer_to_half_precision():
    parts = PageParts()
    given = [add(parts, name, seed, notes=[f"note on {name}"]) for seed, name in enumerate("ab")]
    text, page, data = show(parts)
    ((run,), cards) = data["runs"], data["cards"]
    assert [probe["name"] for probe in run["probes"]] == ["a", "b"]
    assert cards == [[[0, 0]], [[0, 1]]]
    assert run["probes"][0]["frame"] == list(FRAME) and run["probes"][0]["seen"] == "cropped"
    for number, method in enumerate(("grad_cam", "occlusion")):
        (look,) = run["methods"][method]["looks"]
        ((layer, stored),) = look["layers"].items()
        halves = np.frombuffer(base64.b64decode(stored["maps"]), "<f2").astype(np.float32)
        scales = np.frombuffer(base64.b64decode(stored["scales"]), "<f4")
        found = halves.reshape(2, 1, 7, 7) * scales.reshape(2, 1, 1, 1)
        true = np.concatenate([maps[number].layers[layer] for maps in given])
        np.testing.assert_allclose(found, true, atol=2**-11 * np.abs(true).max())
        assert look["probes"] == [0, 1]
    assert outside_references(text) == []
    for name in "ab":
        (section,) = page.all("section", data_image=name)
        assert f"note on {name}" in section.text and "cat0.90" in section.text.replace("\n", "")
    assert not page.all("img")  # panels of maps are not repeated
    (resolution,) = page.all("p", id="resolution")
    assert "more than 28×28 cells are averaged" in resolution.text


def test_a_named_class_is_the_target_if_it_is_not_the_prediction_everywhere():
    parts = PageParts()
    add(parts, "a", 0, roles=("predicted",))
    add(parts, "b", 1, roles=("target",))
    _, _, data = show(parts)
    assert data["runs"][0]["methods"]["grad_cam"]["looks"][0]["roles"] == ["target"]


def test_pictures_of_every_image_give_way_before_an_image_does(monkeypatch):
    parts = PageParts()
    for seed in range(3):
        add(parts, str(seed), seed, layers=8)
    text, page, _ = show(parts)
    assert len(page.all("img")) == 24 and "did not fit" not in text
    assert page.all("summary")[-1].text == "activations of 8 layers"
    limit = len(text) - 400_000
    monkeypatch.setattr("convlens.pages.explained.MOST_BYTES", limit)
    parts = PageParts()
    for seed in range(3):
        add(parts, str(seed), seed, layers=8)
    text, page, data = show(parts)
    assert len(text.encode()) <= limit and len(data["runs"][0]["probes"]) == 3
    counts = []
    for seed in range(3):
        (section,) = page.all("section", data_image=str(seed))
        shown = [img.attributes["alt"].split(" ")[0] for img in page.inside(section, "img")]
        assert {shown[0], shown[-1]} == {"layers/activations/0", "layers/activations/7"}
        assert f"{8 - len(shown)} of 8 layers did not fit on this page" in section.text
        counts.append(len(shown))
    assert min(counts) >= 2 and max(counts) - min(counts) <= 1 and max(counts) < 8


def test_images_that_do_not_fit_are_counted():
    parts = PageParts()
    for seed in range(200):
        add(parts, str(seed), seed)
    assert len(parts.parts) + parts.left_out == 200 and parts.left_out > 1
    text, page, data = show(parts)
    assert 0.9 * MOST_BYTES < len(text.encode()) <= MOST_BYTES == 3_000_000
    assert len(data["runs"][0]["probes"]) == len(parts.parts)
    line = f"{parts.left_out} more images did not fit on this page: see the folders next to it"
    assert [each.text for each in page.all("p") if each.has_class("alarm")] == [line]


@pytest.mark.parametrize("panels", [{}, {"layers/filters/conv": b""}])
def test_without_maps_there_is_no_script(panels):
    grid = encode_jpeg(np.zeros((8, 8, 3), np.uint8))
    parts = PageParts()
    parts.add("filters", "of the network", panels=dict.fromkeys(panels, grid))
    text, page, data = show(parts, refused=["<b>broken"])
    assert not data and not page.all("script") and len(page.all("img")) == len(panels)
    assert "&lt;b&gt;broken" in text
    assert all("open" in each.attributes for each in page.all("details"))
