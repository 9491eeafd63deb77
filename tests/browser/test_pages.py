"""``report.html`` in a real browser: its numbers, its silence, a phone, the dark."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import convlens
from convlens.cli.main import main
from support.browser import Browser
from support.tiny import TINY

pytestmark = pytest.mark.slow

EPOCHS = 3
PHONE = (390, 844)  # CSS pixels, as the common phones have


@pytest.fixture(scope="module")
def report_page(browser, tmp_path_factory):  # nothing is trained without a browser
    """The address of the page of a finished run, with pictures of every epoch."""
    from convlens.pages.report import report

    home = tmp_path_factory.mktemp("pages") / "it"
    words = [
        *TINY,
        f"training.epochs={EPOCHS}",
        "looking.seconds=600",
        "looking.first_seconds=600",
        "callbacks.filter_visuals=null",
    ]
    assert main(["train", f"run_dir={home}", *words]) == 0
    return report(home).as_uri()


def test_the_viewer_has_the_maps_of_the_run(browser: Browser, report_page):
    """From the training to the number that the script reads, with nothing made up between."""
    home = Path(report_page.removeprefix("file://")).parent
    with browser.page() as page:
        page.open(report_page)
        for epoch in range(EPOCHS + 1):
            maps = convlens.open_run(home).maps("grad_cam", epoch)
            ((layer, values),) = maps.layers.items()
            for number, probe in enumerate(maps.probes):
                words = ", ".join(map(json.dumps, (probe, epoch, "grad_cam", layer, "predicted")))
                corner = page.run(f"window.convlens.value({words}, 0, 0)")
                assert corner == float(values[number, 0, 0, 0])
        assert page.errors == []
        assert page.requests == [report_page]


def test_the_page_is_whole_by_itself(browser: Browser, report_page):
    """Opened as a file: every picture decodes, nothing is asked for, nothing goes wrong."""
    with browser.page() as page:
        page.open(report_page)
        # what is folded or far below is decoded too
        page.run("document.querySelectorAll('details').forEach(part => { part.open = true; })")
        broken = page.run(
            "Promise.all([...document.images].map(image => image.decode().then("
            "() => null, () => image.alt))).then(found => found.filter(alt => alt !== null))"
        )
        assert broken == []
        assert page.run("document.images.length") > 3
        page.screenshot("report", whole=True)
        assert page.errors == []
        assert page.requests == [report_page]


def test_the_feature_space_follows_the_viewer_and_its_own_slider(browser: Browser, report_page):
    shown = (
        "JSON.stringify([[...document.querySelectorAll('.film img')].filter("
        "image => image.offsetWidth > 0).map(image => Number(image.dataset.epoch)), "
        "Number(document.querySelector('.film span').textContent)])"
    )

    def move(slider: str, epoch: int) -> str:
        return (
            f"(slider => {{slider.value = {epoch}; slider.dispatchEvent(new Event('input'));}})"
            f"(document.querySelector('{slider}'))"
        )

    with browser.page() as page:
        page.open(report_page)
        assert json.loads(page.run(shown)) == [[EPOCHS], EPOCHS]
        for epoch in (0, 2, EPOCHS):
            page.run(move("#clock", epoch))
            assert json.loads(page.run(shown)) == [[epoch], epoch]
        page.run(move(".film input", 1))
        assert json.loads(page.run(shown)) == [[1], 1]
        page.run("document.querySelector('.film').scrollIntoView()")
        page.screenshot("film")
        assert page.errors == []


def test_what_a_page_asks_for_elsewhere_is_noticed(browser: Browser, tmp_path):
    """The silence above is worth something: the same lists are not silent here."""
    asking = tmp_path / "asking.html"
    asking.write_text(
        "<img src='beside.png'><script>console.error('said'); throw new Error('thrown')</script>"
    )
    with browser.page() as page:
        page.open(asking.as_uri())
        assert page.requests == [asking.as_uri(), (tmp_path / "beside.png").as_uri()]
        for part in ("said", "thrown", "ERR_FILE_NOT_FOUND"):
            assert any(part in error for error in page.errors), page.errors


# the words of tables and buttons that stand on more than one line
BROKEN = """(() => {
  const broken = [];
  for (const cell of document.querySelectorAll('td, th, button')) {
    const texts = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      for (const word of texts.currentNode.data.matchAll(/[\\w.%]+/g)) {
        const range = document.createRange();
        range.setStart(texts.currentNode, word.index);
        range.setEnd(texts.currentNode, word.index + word[0].length);
        const lines = new Set([...range.getClientRects()].map(line => line.top));
        if (lines.size > 1) broken.push(word[0]);
      }
    }
  }
  return broken;
})()"""


@pytest.mark.parametrize("width", [PHONE[0], 1400])
def test_nothing_sticks_out_and_no_word_is_torn(browser: Browser, report_page, width):
    with browser.page(width, PHONE[1], phone=width == PHONE[0]) as page:
        page.open(report_page)
        page.run("document.querySelectorAll('details').forEach(part => { part.open = true; })")
        page.screenshot(f"report_{width}", whole=True)
        assert page.run("document.documentElement.scrollWidth") <= width
        assert page.run(BROKEN) == []


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_follows_light_and_dark(browser: Browser, report_page, dark):
    with browser.page(dark=dark) as page:
        page.open(report_page)
        page.screenshot("report_dark" if dark else "report_light")
        style = "getComputedStyle(document.body)"
        ground = brightness(page.run(f"{style}.backgroundColor"))
        ink = brightness(page.run(f"{style}.color"))
        assert ground < 0.2 and ink > 0.7 if dark else ground > 0.8 and ink < 0.3


def brightness(colour: str) -> float:
    """Mean of the channels of ``rgb(r, g, b)``, in [0, 1]; transparent is refused."""
    channels = [float(value) for value in re.findall(r"[\d.]+", colour)]
    assert len(channels) == 3, colour
    return sum(channels) / (3 * 255)
