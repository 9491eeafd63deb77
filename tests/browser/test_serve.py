"""The page of `make serve` in a real browser: an image is dropped, its classes and map appear."""

from __future__ import annotations

import base64
import io
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

import convlens
from convlens.experiment.inputs import EXAMPLE
from support.browser import Browser, Page
from support.places import ROOT

pytestmark = pytest.mark.slow
pytest.importorskip("gradio", reason="comes with the extra `serve`")

PICTURE = EXAMPLE / "pictures" / "star.png"
CAT = ROOT / "tests" / "photographs" / "cat.jpg"


@pytest.fixture(scope="module")
def explainer():
    return convlens.load(EXAMPLE / "shapes.ckpt", device="cpu")


@pytest.fixture(scope="module")
def address(browser, explainer):
    from convlens.serving.page import build_page, start

    page = build_page(explainer, "the `example` network")
    yield start(page, host="127.0.0.1", port=0)
    page.close(verbose=False)


def drop(page: Page, file) -> None:
    """Drop a file on the image, as from a folder's window."""
    box = page.run(
        "(({x, y, width, height}) => ({x: x + width / 2, y: y + height / 2}))"
        "(document.querySelector('#image').getBoundingClientRect())"
    )
    data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        page.call("Input.dispatchDragEvent", type=kind, x=box["x"], y=box["y"], data=data)


def read_map(page: Page) -> np.ndarray:
    """Return the picture of the map, uint8 (H, W, 3)."""
    text = page.run(
        "await (async () => {const found = await fetch(document.querySelector('#map img').src);"
        "const bytes = new Uint8Array(await found.arrayBuffer());"
        "return btoa(bytes.reduce((text, byte) => text + String.fromCharCode(byte), ''));})()"
    )
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"))


def set_opacity(page: Page, value: float) -> None:
    page.run(
        f"(slider => {{slider.value = '{value}';"
        "for (const event of ['input', 'change', 'pointerup'])"
        "slider.dispatchEvent(new Event(event, {bubbles: true}));})"
        "(document.querySelector('#opacity input[type=range]'))"
    )


def test_an_image_is_dropped_and_its_classes_and_map_appear(browser: Browser, explainer, address):
    from convlens.serving.page import answer

    with browser.page(1200, 1100) as page:
        page.open(address)
        page.until("document.querySelector('#image input[type=file]') !== null")
        assert "example" in page.run("document.body.innerText")
        drop(page, PICTURE)
        page.until("document.querySelector('#map img') !== null")
        classes, overlay = answer(explainer, str(PICTURE), "grad_cam")
        (first, share), *_ = classes.items()
        text = page.until("document.querySelector('#classes').innerText")
        assert first in text and f"{round(100 * share)}%" in text
        assert overlay.caption in page.run("document.querySelector('#caption textarea').value")
        assert np.array_equal(read_map(page), overlay.mix(0.8))
        page.screenshot("served")
        source = page.run("document.querySelector('#map img').src")
        set_opacity(page, 0)
        page.until(f"document.querySelector('#map img').src !== {source!r}")
        assert np.array_equal(read_map(page), overlay.picture)
        # another method
        source = page.run("document.querySelector('#map img').src")
        page.run("document.querySelector('#method input[value=occlusion]').click()")
        page.until(
            "document.querySelector('#caption textarea').value.startsWith('Covering a red region')"
        )
        assert page.errors == []
        hosts = {urlsplit(each).hostname for each in page.requests}
        assert hosts == {"127.0.0.1"}, page.requests


def test_a_photograph_keeps_its_proportions(browser: Browser, explainer, address):
    from convlens.serving.page import answer

    with browser.page(1200, 1100) as page:
        page.open(address)
        page.until("document.querySelector('#image input[type=file]') !== null")
        drop(page, CAT)
        page.until("document.querySelector('#map img') !== null")
        _, overlay = answer(explainer, str(CAT), "grad_cam")
        assert np.array_equal(read_map(page), overlay.mix(0.8))
        page.screenshot("served_cat")
