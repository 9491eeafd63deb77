"""What a person sees in TensorBoard, started by the command on a real run, in a real browser."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import time
from urllib.parse import quote

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from convlens.cli.main import main
from support.browser import PATIENCE, Browser, Page

pytestmark = pytest.mark.slow

EPOCHS = 3
STEPS = list(range(EPOCHS + 1))  # 0 is the network before training
RUN = "it"
MANY = 60  # steps of a longer run: six times what TensorBoard keeps by itself
# a network that has hardly learned and limits that nobody keeps: two alarms in one epoch
ALARMED = ["alarms.evidence_lift=1000", "alarms.same_place=0"]

# curves among the SVG paths of a card: open ones of straight lines; icons and symbols are closed.
# A curve has no point far above or below the chart, so points are counted in the data instead.
CURVES = (
    "all('path', {root}).map(path => path.getAttribute('d') ?? '')"
    ".filter(d => /^M[-.0-9e]+,[-.0-9e]+L/.test(d) && !d.endsWith('Z'))"
)


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """A run of ``shapes``, with the seconds that its looks need, and the pictures of a long one."""
    folder = tmp_path_factory.mktemp("logs")
    words = [f"training.epochs={EPOCHS}", "data.pictures=600", "trainer=cpu", "precision=32"]
    words += [
        "looking.seconds=600",
        "looking.first_seconds=600",
        "looking.last_seconds=600",
        *ALARMED,
    ]
    filters = {"units": 2, "full_units": 2, "steps": 2, "patches": 0}
    words += [f"callbacks.filter_visuals.{key}={value}" for key, value in filters.items()]
    assert main(["train", f"run_dir={folder / 'it'}", *words]) == 0
    with SummaryWriter(str(folder / "long" / "tensorboard")) as writer:
        for step in range(MANY):
            writer.add_image("long/picture", np.full((3, 8, 8), 4 * step, np.uint8), step)
    return folder


@pytest.fixture(scope="module")
def address(browser, logs, tmp_path_factory):  # nothing is trained without a browser
    """Where ``convlens tensorboard`` serves the runs."""
    said = tmp_path_factory.mktemp("tensorboard") / "said.txt"
    command = [sys.executable, "-m", "convlens", "tensorboard", f"dir={logs}", "port=0"]
    with said.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + PATIENCE
        while not (found := re.search(r"http://localhost:\d+", said.read_text())):
            assert process.poll() is None and time.monotonic() < deadline, said.read_text()
            time.sleep(0.2)
        yield found[0]
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def page(browser: Browser, address):
    """A page that may not complain; it asks nobody but this TensorBoard."""
    with browser.page() as page:
        yield page
        page.run("0")  # what it has said until now is heard
        assert page.errors == []
        assert [r for r in page.requests if not r.startswith((address, "blob:"))] == []


def pictures(page: Page) -> list[dict]:
    """The cards of the images tab: tag, every step, the one shown, what the browser shows."""
    return page.run(
        "all('tf-image-loader').map(card => {"
        " const image = card.shadowRoot.querySelector('#main-image-container img');"
        " return {tag: card.tag, steps: (card._steps ?? []).map(step => step.step),"
        "  said: card.shadowRoot.querySelector('.heading-label span')?.innerText,"
        "  width: image?.naturalWidth ?? 0, source: image?.src}})"
    )


def wait_for_pictures(page: Page, start: str, count: int) -> list[dict]:
    """The cards whose tags begin with ``start``, once there are ``count`` and all have loaded.

    The filter of tags stands in the address; below what it finds, the first groups are open too, so
    a card may be there twice.
    """
    page.until(
        f"(cards => cards.length >= {count} && cards.every(card => card.shadowRoot"
        ".querySelector('#main-image-container img')?.naturalWidth))"
        f"(all('tf-image-loader').filter(card => card.tag.startsWith('{start}')))"
    )
    cards = [card for card in pictures(page) if card["tag"].startswith(start)]
    tags = [card["tag"] for card in cards]
    return [card for number, card in enumerate(cards) if card["tag"] not in tags[:number]]


def test_the_tabs_of_a_run_are_offered(page, address):
    page.open(address)
    wanted = ["TIME SERIES", "SCALARS", "CUSTOM SCALARS", "IMAGES", "TEXT", "HPARAMS"]
    # tabs without data are there too, but not seen
    tabs = "all('plugin-selector [role=tab]').filter(tab => tab.getClientRects().length)"
    page.until(f"{wanted}.every(name => {tabs}.some(tab => tab.innerText.trim() === name))")


def test_runs_are_called_by_their_folders(page, address):
    page.open(f"{address}/#timeseries")
    names = "all('tb-data-table-content-row').map(row => row.innerText.trim())"
    page.until(f"['it', 'long'].every(run => {names}.includes(run))")


def test_grad_cam_comes_first_among_the_pictures(page, address):
    page.open(f"{address}/#images")
    groups = (
        "all('tf-category-paginated-view').filter(view => view.category?.name)"
        ".map(view => [view.category.name, view.opened])"
    )
    page.until(f"{groups}.some(([name]) => name === 'grad_cam')")
    page.screenshot("images_order")
    assert page.run(groups)[0] == ["grad_cam", True]


def test_time_series_has_every_step_of_every_curve(page, address):
    wanted = ["train/accuracy", "train/loss", "val/accuracy", "val/loss"]
    page.open(f"{address}/?tagFilter={quote('^(train|val)/(loss|accuracy)$')}#timeseries")
    # two paths a curve: as it is, and smoothed
    page.until(f"all('scalar-card .series-view path[d]').length >= {2 * len(wanted)}")
    page.screenshot("time_series")
    titles = page.run("all('scalar-card tb-truncated-path').map(title => title.textContent)")
    assert sorted("".join(title.split()) for title in titles) == wanted
    curves = {
        curve["tag"]: [point["step"] for point in curve["runToSeries"][RUN]]
        for body in page.fetched("timeseries/timeSeries")
        for curve in json.loads(body)
    }
    assert curves == dict.fromkeys(wanted, STEPS)


def test_scalars_tab_draws_the_scores_of_the_explanations(page, address, logs):
    tag = "explain/border_energy"
    page.open(f"{address}/#scalars&tagFilter={quote(f'^{tag}$')}")
    card = f"all('tf-scalar-card').find(card => card.tag === '{tag}')"
    page.until(f"{card} && {CURVES.format(root=f'{card}.shadowRoot')}.length >= 2")
    page.screenshot("scalars")
    data = f"data/plugin/scalars/scalars?run={quote(RUN)}&tag={quote(tag)}"
    events = page.run(f"fetch('{data}').then(answer => answer.json())")
    with (logs / "it" / "metrics.csv").open() as file:
        rows = {int(row["epoch"]): float(row[tag]) for row in csv.DictReader(file)}
    assert list(rows) == STEPS
    assert {step: value for _, step, value in events} == pytest.approx(rows, rel=1e-6)


def test_grad_cam_shows_a_picture_at_every_step(page, address, logs):
    probes = sorted(file.stem for file in (logs / "it" / "probes").glob("*.png"))
    page.open(f"{address}/#images&tagFilter={quote('^grad_cam/')}")
    cards = wait_for_pictures(page, "grad_cam/", len(probes))
    page.screenshot("images")
    assert [card["tag"] for card in cards] == [f"grad_cam/{probe}" for probe in probes]
    for card in cards:
        assert card["steps"] == STEPS and card["width"] > 0, card


def test_the_slider_goes_through_the_steps(page, address):
    """With the keyboard, from the last epoch, which is shown first, to the untrained network."""
    page.open(f"{address}/#images&tagFilter={quote('^grad_cam/00')}")
    (card,) = wait_for_pictures(page, "grad_cam/00", 1)
    assert card["said"] == str(EPOCHS)
    inside = "all('tf-image-loader').find(card => card.tag.startsWith('grad_cam/00')).shadowRoot"
    image = f"{inside}.querySelector('#main-image-container img')"
    shown = [page.run(f"fetch({image}.src).then(answer => answer.text())")]
    page.run(f"{inside}.querySelector('paper-slider').focus()")
    for step in reversed(STEPS[:-1]):
        before = page.run(f"{image}.src")
        page.press("ArrowLeft", 37)
        page.until(f"{image} && {image}.src !== '{before}' && {image}.naturalWidth")
        (card,) = wait_for_pictures(page, "grad_cam/00", 1)
        assert card["said"] == str(step)
        shown.append(page.run(f"fetch({image}.src).then(answer => answer.text())"))
    page.screenshot("images_epoch_0")
    assert len(set(shown)) == len(STEPS)


@pytest.mark.parametrize("group", ["layers/activations", "layers/filters", "grad_cam_means"])
def test_other_pictures_are_there_at_every_step(page, address, group):
    page.open(f"{address}/#images&tagFilter={quote(f'^{group}')}")
    cards = wait_for_pictures(page, group, 1)
    page.screenshot(f"images_{group.replace('/', '_')}")
    for card in cards:
        assert card["steps"] == STEPS, card


def test_occlusion_takes_one_probe_at_each_look(page, address):
    """The first that is answered rightly: none may be at an epoch, and no epoch has two."""
    page.open(f"{address}/#images&tagFilter={quote('^occlusion/')}")
    cards = wait_for_pictures(page, "occlusion/", 1)
    page.screenshot("images_occlusion")
    steps = [step for card in cards for step in card["steps"]]
    assert steps and len(set(steps)) == len(steps) and set(steps) <= set(STEPS)


def test_no_step_of_a_long_run_is_dropped(page, address):
    page.open(f"{address}/#images&tagFilter={quote('^long/')}")
    (card,) = wait_for_pictures(page, "long/", 1)
    assert card["steps"] == list(range(MANY))


def test_training_and_validation_share_a_chart(page, address):
    page.open(f"{address}/#custom_scalars")
    charts = "all('tf-custom-scalar-multi-line-chart-card')"
    page.until(f"{charts}.length === 2")
    curves = CURVES.format(root="chart.shadowRoot")
    page.until(f"{charts}.every(chart => {curves}.length >= 2)")
    page.screenshot("custom_scalars")
    assert page.run(f"{charts}.map(chart => chart.title)") == ["loss", "accuracy"]
    series = [
        events
        for body in page.fetched("custom_scalars/scalars")
        if (events := json.loads(body)["tag_to_events"])
    ]
    for name in ("loss", "accuracy"):
        (chart,) = [s for s in series if set(s) == {f"train/{name}", f"val/{name}"}]
        for events in chart.values():
            assert [step for _, step, _ in events] == STEPS


def test_every_alarm_stands_in_the_text_tab(page, address, logs):
    said = re.findall(r"alarm after epoch \d+: (.+)", (logs / "it" / "train.log").read_text())
    assert len(said) >= 2
    page.open(f"{address}/#text")
    page.until("all('#markdown').some(text => text.innerText.trim())")
    shown = "all('#markdown').map(text => text.innerText)"
    # TensorBoard keeps one text a tag and step
    page.until(f"{json.dumps(said)}.every(alarm => {shown}.some(text => text.includes(alarm)))", 10)
    page.screenshot("text")


def test_the_config_stands_in_the_text_tab(page, address, logs):
    page.open(f"{address}/#text&tagFilter=config")
    texts = "all('#markdown pre code').map(text => text.innerText.trim())"
    page.until(f"{texts}.some(text => text)")
    page.screenshot("text_config")
    assert set(page.run(texts)) == {(logs / "it" / "config.yaml").read_text().strip()}


def test_hparams_tab_tells_settings_and_results(page, address, logs):
    page.open(f"{address}/#hparams")
    cells = "all('vaadin-grid-cell-content').map(cell => cell.innerText.trim())"
    page.until(f"{cells}.includes('{RUN}')")
    page.screenshot("hparams")
    summary = json.loads((logs / "it" / "summary.json").read_text())
    shown = page.run(cells)
    assert "test/accuracy" in shown
    assert f"{summary['test']['accuracy']:#.5g}" in shown
    groups = [json.loads(body)["sessionGroups"] for body in page.fetched("hparams/session_groups")]
    (settings,) = {
        json.dumps(group["hparams"], sort_keys=True) for found in groups for group in found
    }
    assert json.loads(settings)["training.epochs"] == EPOCHS
