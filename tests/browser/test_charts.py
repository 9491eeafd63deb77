"""Charts in a real browser: values under the pointer, a finger and the arrow keys."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from convlens.pages.charts import line_chart
from convlens.pages.render import render
from support.browser import Browser, Page

pytestmark = pytest.mark.slow

EPOCHS = 12
TRAINING = {epoch: 2.0 / (1 + epoch) for epoch in range(EPOCHS + 1)}
VALIDATION = {epoch: 0.3 + (epoch - 6) ** 2 / 50 for epoch in range(0, EPOCHS + 1, 2)}
RATES = {"head": {0: 0.0, 4: 1e-3, 8: 1e-5, 12: math.nan}}
LAST = [f"layer{number}" for number in range(12)]


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    """A page with charts of every kind, made as the report and the comparison make theirs."""
    charts = [
        line_chart("loss", {"training": TRAINING, "validation": VALIDATION}, best=6,
                   phases={"phase 2": 4}, span=(0, EPOCHS)),
        line_chart("rates", RATES, log=True, span=(0, EPOCHS)),
        line_chart("scores", {name: {0: n, 12: 2 * n} for n, name in enumerate(LAST)}),
    ]  # fmt: skip
    page = render(
        "compare.html", runs=[], columns=[], charts=charts, differing=[], absent="", notes=[],
        confusions=[], viewer=None,
    )  # fmt: skip
    file = Path(tmp_path_factory.mktemp("charts")) / "page.html"
    file.write_text(page, encoding="utf-8")
    return file.as_uri()


def place(page: Page, chart: int, epoch: float, height: float = 0.5) -> dict[str, float]:
    """The position of an epoch in the window, by the ticks that the axis draws."""
    return page.run(f"""(() => {{
      const svg = document.querySelectorAll('.chart > svg')[{chart}];
      svg.scrollIntoView({{block: 'center'}});
      const ticks = [...svg.querySelectorAll('.across text')].filter(t => t.textContent !== 'epoch')
        .map(t => [Number(t.textContent), t.getBoundingClientRect()])
        .map(([value, box]) => [value, box.left + box.width / 2]);
      const [[low, left], [high, right]] = [ticks[0], ticks.at(-1)];
      const box = svg.getBoundingClientRect();
      return {{x: left + ({epoch} - low) / (high - low) * (right - left),
              y: box.top + {height} * box.height}};
    }})()""")


def point(page: Page, chart: int, epoch: float, **where: float) -> None:
    page.call("Input.dispatchMouseEvent", type="mouseMoved", **place(page, chart, epoch, **where))


def told(page: Page, chart: int = 0) -> list[str]:
    """The lines of the box of a chart; none while it is hidden."""
    box = f"document.querySelectorAll('.chart')[{chart}].querySelector('.values')"
    return page.run(f"{box}.checkVisibility() ? {box}.innerText.split('\\n') : []")


def test_the_nearest_epoch_under_the_pointer_is_told(browser: Browser, address):
    with browser.page(1200) as page:
        page.open(address)
        assert told(page) == []
        for epoch in range(EPOCHS + 1):
            point(page, 0, epoch + (0.4 if epoch < EPOCHS else -0.4))
            validation = f"{VALIDATION[epoch]:.6g}" if epoch in VALIDATION else "–"
            assert told(page) == [
                f"epoch {epoch}", f"training {TRAINING[epoch]:.6g}", f"validation {validation}"
            ]  # fmt: skip
        page.call("Input.dispatchMouseEvent", type="mouseMoved", x=5, y=5)
        assert told(page) == []
        assert page.errors == [] and page.requests == [address]


def test_the_dots_lie_on_the_lines(browser: Browser, address):
    """The line and the dots of the script meet the points that the drawing has."""
    with browser.page(1200) as page:
        page.open(address)
        for chart, epoch in ((0, 8), (1, 4)):
            point(page, chart, epoch)
            ours, drawn = page.run(f"""(() => {{
              const svg = document.querySelectorAll('.chart > svg')[{chart}];
              const at = dot => [Number(dot.getAttribute('cx')), Number(dot.getAttribute('cy'))];
              const dots = part => [...part.querySelectorAll('circle')].map(at);
              return [dots(svg.querySelector('.pointer')),
                      [...svg.querySelectorAll('.line')].map(dots)];
            }})()""")
            for dot, line in zip(ours, drawn, strict=True):
                assert min(math.dist(dot, other) for other in line) < 0.02


def test_values_without_a_place_on_the_axis_are_told(browser: Browser, address):
    with browser.page(1200) as page:
        page.open(address)
        point(page, 1, 0)
        assert told(page, 1) == ["epoch 0", "head 0"]
        point(page, 1, 12)
        assert told(page, 1) == ["epoch 12", "head nan"]
        hidden = "document.querySelectorAll('.chart')[1].querySelector('.pointer circle')"
        assert page.run(f"{hidden}.getAttribute('visibility')") == "hidden"
        assert page.errors == []


def test_arrow_keys_walk_over_the_epochs(browser: Browser, address):
    with browser.page(1200) as page:
        page.open(address)
        for _ in range(20):  # the first chart that Tab reaches
            page.press("Tab", 9)
            if page.run("document.activeElement.matches('.chart > svg')"):
                break
        assert told(page)[0] == f"epoch {EPOCHS}"
        page.press("ArrowLeft", 37)
        assert told(page)[:2] == [f"epoch {EPOCHS - 1}", f"training {TRAINING[EPOCHS - 1]:.6g}"]
        page.press("Home", 36)
        assert told(page)[0] == "epoch 0"
        page.press("ArrowLeft", 37)
        assert told(page)[0] == "epoch 0"
        page.press("ArrowRight", 39)
        assert told(page)[0] == "epoch 1"
        page.press("End", 35)
        assert told(page)[0] == f"epoch {EPOCHS}"
        page.press("Escape", 27)
        assert told(page) == []


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("epoch", [0, 5, EPOCHS])
def test_a_finger_shows_a_box_that_stays_on_the_page(browser: Browser, address, epoch, dark):
    with browser.page(390, 844, phone=True, dark=dark) as page:
        page.open(address)
        for chart in (0, 2):
            where = place(page, chart, epoch)
            page.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[where])
            page.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
            assert told(page, chart)[0].startswith("epoch ")
            left, right = page.run(f"""(() => {{
              const box = document.querySelectorAll('.values')[{chart}].getBoundingClientRect();
              return [box.left, box.right];
            }})()""")
            assert 0 <= left < right <= 390
            page.screenshot(f"chart_{chart}_{epoch}_{'dark' if dark else 'light'}")
        assert page.run("document.documentElement.scrollWidth") <= 390
        assert page.errors == []
