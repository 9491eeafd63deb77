"""``compare.html`` in a real browser: the maps of several runs, side by side at the same epoch."""

from __future__ import annotations

import json

import numpy as np
import pytest

from convlens.pages.compare import compare
from convlens.rundir.maps import read_maps
from support.browser import Browser, Page
from support.maps_made import LAYERS, write_run_with_maps

pytestmark = pytest.mark.slow

EPOCHS = (5, 3)  # of the two runs
PLACE, PROBE = 2, "02_image"
PHONE = (390, 844)  # CSS pixels, as the common phones have
LAYER, SIDE = list(LAYERS.items())[-1]


@pytest.fixture(scope="module")
def homes(browser, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    homes = [
        write_run_with_maps(folder / name, epochs=epochs, seed=number)
        for number, (name, epochs) in enumerate(zip("ab", EPOCHS, strict=True))
    ]
    table = homes[1] / "probes" / "probes.tsv"  # its network sees the third image otherwise
    lines = table.read_text(encoding="utf-8").splitlines()
    lines[1 + PLACE] = lines[1 + PLACE].replace("squashed to 224×224", "squashed to 150×150")
    table.write_text("\n".join(lines), encoding="utf-8")
    return homes


@pytest.fixture(scope="module")
def address(homes):
    file = homes[0].parent / "compare.html"
    file.write_text(compare(homes), encoding="utf-8")
    return file.as_uri()


def slide(page: Page, epoch: int) -> None:
    page.run(
        f"(() => {{ const it = document.getElementById('clock'); it.value = {epoch};"
        " it.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def texts(page: Page, part: str) -> list[str]:
    """The visible text of a part of each pane of an image."""
    return page.run(
        f"[...document.querySelectorAll('.viewer-pane[data-probe=\"{PROBE}\"] .viewer-{part}')]"
        ".map(each => each.checkVisibility() ? each.innerText : '')"
    )


def test_both_panes_have_the_numbers_of_their_runs_at_the_same_epoch(
    browser: Browser, homes, address
):
    with browser.page(1200, 1000) as page:
        page.open(address)
        for epoch in range(max(EPOCHS) + 1):
            slide(page, epoch)
            for run, (home, last) in enumerate(zip(homes, EPOCHS, strict=True)):
                shown = min(epoch, last)  # a run that has ended shows its last maps
                maps = read_maps(home / f"explanations/epoch_{shown:03d}/maps.safetensors")
                values = maps["grad_cam"].layers[LAYER][PLACE, 0]
                read = page.run(
                    f"Array.from({{length: {SIDE * SIDE}}}, (_, cell) => convlens.value("
                    f"{json.dumps(PROBE)}, convlens.state.epoch, 'grad_cam', {json.dumps(LAYER)},"
                    f" 'predicted', Math.floor(cell / {SIDE}), cell % {SIDE}, {run}))"
                )
                assert read == values.ravel().tolist()
                peak = float(texts(page, "value")[run].split(",")[0].removeprefix("peak "))
                assert peak == pytest.approx(values.max(), rel=6e-3)
                late = f"map of epoch {last}, the latest up to {epoch}"
                assert (late in texts(page, "note")[run]) == (epoch > last)
        assert texts(page, "run") == ["a", "b"]
        assert page.run("document.querySelectorAll('.viewer-cards .viewer-card').length") == 4
        page.run("document.getElementById('viewer').scrollIntoView()")
        page.screenshot("compare")
        assert page.errors == [] and page.requests == [address]


def test_what_the_networks_see_is_told_for_each_if_it_differs(browser: Browser, address):
    with browser.page(1200, 1000) as page:
        page.open(address)
        told = page.run(
            "[...document.querySelectorAll('.viewer-cards .viewer-source')].map(it => it.innerText)"
        )
    sizes = "451×300 squashed to"
    assert f"a: {sizes} 224×224 · b: {sizes} 150×150" in told[PLACE]
    assert told[0].count("squashed") == 1 and "a:" not in told[0]


def test_runs_share_a_scale(browser: Browser, homes, address):
    highest = 0.0
    for home in homes:
        for file in home.glob("explanations/*/maps.safetensors"):
            maps = read_maps(file)["grad_cam"]
            highest = max(highest, np.nanmax(maps.layers[LAYER][PLACE]))
    with browser.page(1200, 1000) as page:
        page.open(address)
        ends = [float(words.split()[-2]) for words in texts(page, "legend")]
        assert len(ends) == 2 and ends[0] == ends[1] == pytest.approx(highest, rel=6e-3)


def test_runs_keep_their_colours(browser: Browser, address):
    with browser.page(1200, 1000) as page:
        page.open(address)
        colours = page.run(
            "[...document.querySelectorAll('.results .swatch, .viewer-card:first-child .swatch')]"
            ".map(each => getComputedStyle(each).backgroundColor)"
        )
        assert len(colours) == 4 and colours[:2] == colours[2:] and colours[0] != colours[1]


def test_a_phone_shows_both_runs(browser: Browser, address):
    with browser.page(*PHONE, phone=True) as page:
        page.open(address)
        page.run("document.getElementById('viewer').scrollIntoView()")
        assert page.run("document.documentElement.scrollWidth") == PHONE[0]
        widths = page.run(
            "[...document.querySelectorAll('.viewer-card:first-child .viewer-picture')]"
            ".map(each => each.getBoundingClientRect().width)"
        )
        assert len(widths) == 2 and min(widths) > 140
        page.screenshot("compare_phone")
        assert page.errors == []
