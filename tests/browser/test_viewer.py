"""The viewer of maps in a real browser: what each control does to the pixels, and its numbers."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from convlens.draw.colour import colour_table
from convlens.pages.report import report
from convlens.rundir.maps import IMAGE, Maps, read_maps, write_maps
from support.browser import Browser, Page
from support.maps_made import CLASSES, EMPTY, LAYERS, MISSING, SPARSE, write_run_with_maps

pytestmark = pytest.mark.slow

EPOCHS = 6
PROBES = ("00_image", "01_unknown", "02_image", "03_image")
KEYS = {"Home": 36, "End": 35, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40,
        "Escape": 27, " ": 32}  # fmt: skip
LAST_LAYER, SIDE = list(LAYERS.items())[-1]


@pytest.fixture(scope="module")
def home(browser, tmp_path_factory):
    return write_run_with_maps(tmp_path_factory.mktemp("viewer") / "run", epochs=EPOCHS)


@pytest.fixture(scope="module")
def address(home):
    return report(home).as_uri()


@pytest.fixture
def page(browser: Browser, address):
    """The opened report; at the end, nothing has gone wrong and nothing was asked for."""
    with browser.page(1200, 1000) as page:
        page.open(address)
        page.run("document.getElementById('viewer').scrollIntoView()")
        yield page
        assert page.errors == []
        assert page.requests == [address]


def slide(page: Page, name: str, value: int) -> None:
    """Drag a slider."""
    page.run(
        f"(() => {{ const it = document.getElementById('{name}'); it.value = {value};"
        " it.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def choose(page: Page, name: str, value: str) -> None:
    """Choose an entry of a list, which must be there and visible."""
    chosen = page.run(
        f"(() => {{ const it = document.querySelector('[data-choice={name}]');"
        f" it.value = {json.dumps(value)}; it.dispatchEvent(new Event('change'));"
        " return it.checkVisibility() ? it.value : 'hidden'; })()"
    )
    assert chosen == value


def press(page: Page, key: str, **more) -> None:
    page.press(key, KEYS[key], **more)


def pixels(page: Page, probe: str = PROBES[2], pane: int = 0, within: str = ".viewer-cards"):
    """The canvas of a pane, uint8 (h, w, 4)."""
    width, height, values = page.run(
        "(() => { const canvas = document.querySelectorAll("
        f"'{within} [data-probe=\"{probe}\"] canvas')[{pane}];"
        "const all = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);"
        "return [canvas.width, canvas.height, [...all.data]]; })()"
    )
    return np.array(values, np.uint8).reshape(height, width, 4)


def words(page: Page, part: str, probe: str, pane: int = 0) -> str:
    """The visible text of a part of a pane."""
    return page.run(
        f"document.querySelectorAll('.viewer-pane[data-probe=\"{probe}\"] .viewer-{part}')"
        f"[{pane}].innerText"
    )


def stored(home, epoch: int, method: str = "grad_cam"):
    return read_maps(home / "explanations" / f"epoch_{epoch:03d}" / "maps.safetensors")[method]


# --- numbers


def test_every_number_of_every_map_is_that_of_the_file(page, home):
    compared = 0
    for epoch in range(EPOCHS + 1):
        for method, layers in (("grad_cam", LAYERS), ("occlusion", [IMAGE])):
            if method == "occlusion" and epoch % SPARSE:
                continue
            maps = stored(home, epoch, method)
            for layer in layers:
                values = maps.layers[layer]
                rows, columns = values.shape[2:]
                read = page.run(
                    f"{json.dumps(maps.probes)}.map(probe => {json.dumps(maps.roles)}.map(role =>"
                    f" Array.from({{length: {rows * columns}}}, (_, cell) => convlens.value(probe,"
                    f" {epoch}, '{method}', '{layer}', role, Math.floor(cell / {columns}),"
                    f" cell % {columns}))))"
                )
                # JSON has no NaN: it is null
                found = np.array(read, np.float64).reshape(values.shape)
                np.testing.assert_array_equal(found, values.astype(np.float64))
                compared += values.size
    assert compared > 10_000


def test_the_number_under_the_pointer_is_that_of_the_cell(page, home):
    values = stored(home, EPOCHS).layers[LAST_LAYER][2, 0]
    box = page.run(
        f"(() => {{ const box = document.querySelector('[data-probe=\"{PROBES[2]}\"] canvas')"
        ".getBoundingClientRect(); return [box.left, box.top, box.width, box.height]; })()"
    )
    peak = np.unravel_index(values.argmax(), values.shape)
    told = words(page, "value", PROBES[2])
    assert told.startswith("peak ")
    for row, column in ((0, 0), (3, 5), peak):
        x = box[0] + box[2] * (column + 0.5) / SIDE
        page.point(x, box[1] + box[3] * (row + 0.5) / SIDE)
        said, *place = words(page, "value", PROBES[2]).split(", ")
        assert place == [f"row {row}", f"column {column} of {SIDE}×{SIDE}"]
        assert float(said) == pytest.approx(values[row, column], rel=6e-3)
    page.screenshot("viewer_pointer")
    page.point(5, 5)
    assert words(page, "value", PROBES[2]) == told


def test_legend_tells_the_scale(page, home):
    looks = [stored(home, epoch) for epoch in range(EPOCHS + 1)]
    tops = [np.nanmax(maps.layers[LAST_LAYER][2]) for maps in looks if len(maps.probes) > 2]
    low, high, unit = words(page, "legend", PROBES[2]).split()
    assert (low, unit) == ("0", "logit")
    assert float(high) == pytest.approx(max(tops), rel=6e-3)  # of the run, over all classes
    choose(page, "scale", "map")
    high = words(page, "legend", PROBES[2]).split()[1]
    assert float(high) == pytest.approx(looks[-1].layers[LAST_LAYER][2, 0].max(), rel=6e-3)
    choose(page, "method", "occlusion")
    low, high, _ = words(page, "legend", PROBES[2]).split()
    assert low[0] == "−" and high[0] == "+" and low[1:] == high[1:]


def test_one_pixel_far_above_the_others_leaves_them_their_colours(browser: Browser, tmp_path):
    """Attributions of pixels end at the 99th percentile; the number at the pointer stays true."""
    values = np.random.default_rng(3).normal(0, 1, (1, 1, 14, 14)).astype(np.float32)
    values[0, 0, 4, 9] = 50.0
    facts = ("p", ["target"], [["cat"]], np.ones((1, 1), np.float32))
    home = write_run_with_maps(tmp_path / "run", epochs=1)
    for method in ("integrated_gradients", "superpixels"):
        for epoch in (0, 1):
            maps = Maps(method, [PROBES[2]], *facts[1:], {IMAGE: values * (1 + epoch)})
            write_maps(home / "explanations" / f"epoch_{epoch:03d}", maps)
    sizes = {
        "run": np.sort(np.abs(np.concatenate([values, 2 * values])).ravel()),
        "map": np.sort(np.abs(2 * values).ravel()),
    }
    with browser.page(1200, 1000) as page:
        page.open(report(home).as_uri())
        for method, within in (("integrated_gradients", 0.99), ("superpixels", 1.0)):
            choose(page, "method", method)
            choose(page, "cells", "sharp")
            slide(page, "opacity", 100)
            for scale, ordered in sizes.items():
                choose(page, "scale", scale)
                end = float(ordered[math.ceil(within * len(ordered)) - 1])
                told = words(page, "legend", PROBES[2])
                assert ("≥ +" in told and "≤ −" in told) == (within < 1)
                assert float(told.replace("≥ ", "").split("+")[1].split()[0]) == pytest.approx(
                    end, rel=6e-3
                )
                drawn = pixels(page)[..., :3].astype(int)
                wanted = expected(2 * values[0, 0], -end, end, "coolwarm")
                assert np.abs(drawn - wanted).max() <= 4
            said = words(page, "value", PROBES[2])
            assert said == "peak 100, row 4, column 9 of 14×14"
        assert page.errors == []


# --- pixels


def expected(values: np.ndarray, low: float, high: float, table: str) -> np.ndarray:
    unit = ((values.astype(np.float64) - low) / (high - low)).clip(0, 1)
    return colour_table(table)[np.floor(255 * unit + 0.5).astype(int)]


@pytest.mark.parametrize("table", ["inferno", "viridis", "gray"])
def test_cells_have_the_colours_of_their_values(page, home, table):
    choose(page, "cells", "sharp")
    choose(page, "scale", "map")
    choose(page, "colours", table)
    slide(page, "opacity", 100)
    drawn, values = pixels(page), stored(home, EPOCHS).layers[LAST_LAYER][2, 0]
    assert drawn.shape == (SIDE, SIDE, 4) and (drawn[..., 3] == 255).all()
    np.testing.assert_array_equal(drawn[..., :3], expected(values, 0, values.max(), table))


def test_signed_maps_have_two_colours_around_zero(page, home):
    choose(page, "method", "occlusion")
    choose(page, "cells", "sharp")
    choose(page, "scale", "map")
    slide(page, "opacity", 100)
    values = stored(home, 6, "occlusion").layers[IMAGE][2, 0]
    top = float(np.abs(values).max())
    drawn = pixels(page)
    wanted = expected(values, -top, top, "coolwarm")
    # the last bit of a sum may round to the colour beside it
    assert np.abs(drawn[..., :3].astype(int) - wanted).max() <= 4
    assert drawn.shape == (9, 12, 4)
    slide(page, "opacity", 60)
    covers = pixels(page)[..., 3].astype(int)
    assert covers.flat[np.abs(values).argmax()] == covers.max() > 200
    assert covers.flat[np.abs(values).argmin()] == covers.min() < 30
    page.screenshot("viewer_signed")


def test_opacity_slides_from_the_photograph_to_the_map(page):
    covers = []
    for opacity in (0, 30, 60, 100):
        slide(page, "opacity", opacity)
        assert page.run("document.getElementById('opacity-text').innerText") == f"{opacity} %"
        covers.append(pixels(page)[..., 3].astype(int))
    assert (covers[0] == 0).all() and (covers[3] == 255).all()
    assert 0 < covers[1].mean() < covers[2].mean() < 255
    assert (covers[2] >= covers[1]).all()


def test_smooth_maps_are_interpolated_as_torch_does(page, home):
    choose(page, "scale", "map")
    choose(page, "colours", "gray")  # linear, so that colours are values
    slide(page, "opacity", 100)
    drawn, values = pixels(page)[..., 0], stored(home, EPOCHS).layers[LAST_LAYER][2, 0]
    assert drawn.shape[0] > 8 * SIDE
    enlarged = interpolate(torch.tensor(values)[None, None], drawn.shape, mode="bilinear")[0, 0]
    wanted = expected(enlarged.numpy(), 0, values.max(), "gray")[..., 0]
    assert np.abs(drawn.astype(int) - wanted).max() <= 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("layer", next(iter(LAYERS))), ("role", "true"), ("role", "2nd"), ("method", "occlusion"),
     ("colours", "viridis"), ("cells", "sharp"), ("scale", "map")],
)  # fmt: skip
def test_every_switch_changes_the_picture(page, name, value):
    before = pixels(page)
    choose(page, name, value)
    after = pixels(page)
    assert before.shape != after.shape or (before != after).any()


def test_classes_are_named_with_their_probabilities(page, home):
    maps = stored(home, EPOCHS)
    row = maps.classes[2]
    for column, role in enumerate(maps.roles):
        choose(page, "role", role)
        told = words(page, "explained", PROBES[2])
        if role != "predicted":
            assert f"{row[column]} {maps.probabilities[2, column]:.2f}" in told
        # the answer stays the predicted class, right or wrong in words
        answer = words(page, "answer", PROBES[2])
        assert answer.startswith(f"{row[0]} {maps.probabilities[2, 0]:.2f}")
        assert ("✓ right" in answer) is (row[0] == CLASSES[2])
        assert ("✗ wrong" in answer) is (row[0] != CLASSES[2])


# --- epochs


def test_the_slider_moves_all_maps_with_the_keyboard(page):
    page.run("document.getElementById('clock').focus()")
    press(page, "Home")
    shown = []
    for epoch in range(EPOCHS + 1):
        assert page.run("document.getElementById('clock').value") == str(epoch)
        assert page.run("document.getElementById('epoch').innerText") == f"epoch {epoch}"
        if epoch not in (EMPTY, MISSING):
            shown.append([pixels(page, probe).tobytes() for probe in PROBES])
        page.screenshot(f"viewer_epoch_{epoch}")
        press(page, "ArrowRight")
    assert page.run("document.getElementById('clock').value") == str(EPOCHS)
    for probe in zip(*shown, strict=True):
        assert len(set(probe)) == len(shown)
    press(page, "ArrowLeft")
    press(page, "End")
    assert page.run("convlens.state.epoch") == EPOCHS


def test_keys_work_on_the_pictures_too_and_leave_the_rest_of_the_page_alone(page):
    page.run("document.querySelector('.viewer-picture').focus()")
    press(page, "Home")
    assert page.run("convlens.state.epoch") == 0
    press(page, "ArrowRight")
    assert page.run("convlens.state.epoch") == 1
    page.run("document.activeElement.blur()")
    press(page, "Home")  # of the page
    assert page.run("convlens.state.epoch") == 1
    page.run("document.querySelector('[data-choice=role]').focus()")
    press(page, "ArrowDown")  # of the list
    assert page.run("convlens.state.epoch") == 1 and page.run("convlens.state.role") != "predicted"


def test_the_film_plays_to_the_end_and_stops_by_itself(page):
    slide(page, "clock", 0)
    page.run(
        "(() => { window.seen = new Set(); new MutationObserver(() => seen.add("
        "document.getElementById('epoch').innerText)).observe(document.getElementById('epoch'),"
        " {childList: true}); })()"
    )
    page.run("document.getElementById('play').click()")
    assert page.run("document.getElementById('play').innerText") == "stop"
    page.until("document.getElementById('play').innerText === 'play'")
    assert page.run("[...seen]") == [f"epoch {epoch}" for epoch in range(EPOCHS + 1)]
    # space plays from the start again, and stops
    page.run("document.getElementById('clock').focus()")
    press(page, " ")
    assert page.run("document.getElementById('play').innerText") == "stop"
    press(page, " ")
    assert page.run("document.getElementById('play').innerText") == "play"
    assert page.run("convlens.state.epoch") < EPOCHS


def test_two_epochs_stand_side_by_side(page):
    assert page.run("document.getElementById('second').checkVisibility()") is False
    page.run("document.getElementById('two-epochs').click()")
    slide(page, "clock", 6)
    slide(page, "second", 3)
    page.screenshot("viewer_two_epochs")
    assert page.run("document.querySelectorAll('.viewer-cards canvas').length") == 2 * len(PROBES)
    for pane, epoch in ((0, 6), (1, 3)):
        assert words(page, "answer", PROBES[2], pane).startswith(f"epoch {epoch} ")
    second = pixels(page, pane=1)
    slide(page, "clock", 4)
    assert (pixels(page, pane=1) == second).all()
    slide(page, "clock", 3)
    assert (pixels(page, pane=0) == second).all()
    page.run("document.getElementById('two-epochs').click()")
    assert page.run("document.querySelectorAll('.viewer-cards canvas').length") == len(PROBES)


def test_what_a_map_lacks_is_said(page, home):
    slide(page, "clock", EMPTY)
    assert words(page, "note", PROBES[0]) == "no positive evidence"
    assert (pixels(page, PROBES[0])[..., 3] == 0).all()
    slide(page, "clock", MISSING)
    assert (
        words(page, "note", PROBES[3]) == f"map of epoch {MISSING - 1}, the latest up to {MISSING}"
    )
    slide(page, "clock", EPOCHS)
    choose(page, "role", "true")
    assert words(page, "note", PROBES[1]) == "the true class is unknown"
    assert "right" not in words(page, "answer", PROBES[1])
    choose(page, "method", "occlusion")
    slide(page, "clock", 4)
    # the answer is that of Grad-CAM, which looked later
    maps = stored(home, 4)
    answer = f"{maps.classes[0][0]} {maps.probabilities[0, 0]:.2f}"
    assert words(page, "answer", PROBES[0]).startswith(answer)
    assert words(page, "note", PROBES[0]) == f"map of epoch {SPARSE}, the latest up to 4"


def test_phases_and_the_best_epoch_are_ticks_of_the_slider(page):
    ticks = page.run(
        "[...document.querySelectorAll('.viewer-marks > span')].map(tick => [tick.innerText,"
        " tick.getBoundingClientRect()[tick.classList.contains('late') ? 'right' : 'left']])"
    )
    left, width = page.run(
        "(() => { const box = document.getElementById('clock').getBoundingClientRect();"
        " return [box.left, box.width]; })()"
    )
    for (text, x), (word, epoch) in zip(ticks, (("★ best", 4), ("phase 2", 3)), strict=True):
        assert text == word
        assert x == pytest.approx(left + 8 + (width - 16) * epoch / EPOCHS, abs=1.5)


# --- the dialog


def test_a_click_enlarges_and_escape_closes(page):
    x, y, width = page.run(
        f"(() => {{ const box = document.querySelector('[data-probe=\"{PROBES[2]}\"] button')"
        ".getBoundingClientRect();"
        " return [box.left + box.width / 2, box.top + box.height / 2, box.width]; })()"
    )
    page.point(x, y, click=True)
    dialog = ".viewer-dialog[open]"
    assert page.run(f"document.querySelector('{dialog} .viewer-picture').offsetWidth") > 1.5 * width
    page.screenshot("viewer_dialog")
    before = pixels(page, within=dialog)
    press(page, "Home")  # the slider has the focus
    assert page.run("convlens.state.epoch") == 0
    assert (pixels(page, within=dialog) != before).any()
    # Shift and arrows move from cell to cell
    press(page, "ArrowRight", shift=True)
    press(page, "ArrowDown", shift=True)
    value = f"document.querySelector('{dialog} .viewer-value').innerText"
    half = SIDE // 2
    assert f"row {half + 1}, column {half + 1} of" in page.run(value)
    assert page.run("convlens.state.epoch") == 0
    press(page, "Escape")
    assert page.run(f"document.querySelector('{dialog}')") is None
    assert page.run("document.activeElement.className") == "viewer-picture"
    # the bar is back at its place, and the cards show the epoch of the dialog
    page.until("document.querySelector('.viewer-place > .viewer-bar') !== null")
    assert words(page, "value", PROBES[2]).startswith("peak")


def test_two_probes_stand_side_by_side_in_the_dialog(page):
    page.run(f"document.querySelector('[data-probe=\"{PROBES[2]}\"] button').click()")
    page.run(
        "(() => { const it = document.getElementById('other');"
        f" it.value = [...it.options].find(each => each.text === '{PROBES[0]}').value;"
        " it.dispatchEvent(new Event('change')); })()"
    )
    page.screenshot("viewer_two_probes")
    shown = (
        "[...document.querySelectorAll('.viewer-dialog .viewer-card')].map(e => e.dataset.probe)"
    )
    assert page.run(shown) == [PROBES[2], PROBES[0]]
    boxes = page.run(
        "[...document.querySelectorAll('.viewer-dialog canvas')].map(canvas =>"
        " [canvas.getBoundingClientRect().left, canvas.getBoundingClientRect().right])"
    )
    assert boxes[0][1] < boxes[1][0]
    page.run("document.getElementById('close').click()")
    assert page.run("document.querySelector('.viewer-dialog').open") is False


# --- names, phones, the dark, and people who do not use a mouse


def test_names_are_text(page):
    nasty = CLASSES[3]
    cards = page.run("document.querySelector('.viewer-cards').innerText")
    assert f"true class {nasty}" in cards
    assert (
        page.run("document.querySelectorAll('.viewer-cards script, .viewer-cards i').length") == 0
    )
    bold = (
        "[...document.querySelectorAll('.viewer-cards b')].every(b => b.closest('.viewer-answer'))"
    )
    assert page.run(bold)


def test_every_control_has_a_name(page):
    page.run("document.querySelector('.viewer-picture').click()")
    nameless = page.run(
        "[...document.querySelectorAll('.viewer input, .viewer select, .viewer button, .viewer img,"
        " .viewer canvas, .viewer dialog')].filter(e => !(e.getAttribute('aria-label') || e.alt ||"
        " e.labels?.[0]?.innerText || e.innerText || e.closest('[hidden]'))).map(e => e.outerHTML)"
    )
    assert nameless == []


def test_the_focus_is_visible(page):
    page.run("document.querySelector('.viewer-picture').focus()")
    press(page, "ArrowLeft")  # a key makes the browser show the focus
    style = "getComputedStyle(document.activeElement)"
    assert page.run(f"{style}.outlineStyle") == "solid"
    assert float(page.run(f"{style}.outlineWidth").removesuffix("px")) >= 2


def test_a_phone_has_room_for_everything(browser: Browser, address):
    with browser.page(390, 844, phone=True) as page:
        page.open(address)
        page.run("document.getElementById('viewer').scrollIntoView()")
        wide = "document.documentElement.scrollWidth"
        # the choices are folded, so that pictures have room
        assert page.run("document.querySelector('.viewer-bar').offsetHeight") < 844 / 6
        page.screenshot("viewer_phone")
        page.run("document.querySelector('.viewer-options').open = true")
        page.screenshot("viewer_phone_choices")
        assert page.run(wide) <= 390
        page.run("document.getElementById('two-epochs').click()")
        page.screenshot("viewer_phone_two_epochs")
        assert page.run(wide) <= 390
        page.run("document.querySelector('.viewer-picture').click()")
        page.screenshot("viewer_phone_dialog")
        dialog = "document.querySelector('.viewer-dialog')"
        assert page.run(wide) <= 390
        assert page.run(f"{dialog}.scrollWidth <= {dialog}.clientWidth")
        assert page.errors == []


def test_the_bar_follows_the_dark(browser: Browser, address):
    for dark in (False, True):
        with browser.page(1200, 1000, dark=dark) as page:
            page.open(address)
            page.run("document.getElementById('viewer').scrollIntoView()")
            page.screenshot(f"viewer_{'dark' if dark else 'light'}")
            ground = page.run(
                "getComputedStyle(document.querySelector('.viewer-bar')).backgroundColor"
                ".match(/\\d+/g).map(Number)"
            )
            assert math.fsum(ground[:3]) / 765 < 0.2 if dark else math.fsum(ground[:3]) / 765 > 0.8
