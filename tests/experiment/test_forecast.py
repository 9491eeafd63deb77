"""What ``make plan`` expects of the looks, for a network whose passes take known seconds."""

from __future__ import annotations

import pytest
import torch
from convlens.callbacks import FilterVisuals, GradCam, Ledger, Mistakes, OcclusionMaps, Scores

from convlens.config.compose import compose
from convlens.experiment.forecast import forecast_looks
from convlens.experiment.module import build_module
from support.looks import NAMES, FakeClock
from support.tiny import TINY

PASS = 0.1  # seconds of an image; 16 px have 7 by 7 windows of occlusion, so 4.9 s for a probe


@pytest.fixture
def forecast(monkeypatch):
    clock = FakeClock(monkeypatch)
    module = build_module(compose(TINY), list(NAMES))
    module.model.register_forward_pre_hook(
        lambda network, images: clock.spend(PASS * len(images[0]))
    )

    def run(looks, epochs, **seconds):
        for each in looks:
            each.class_names = NAMES
        ledger = Ledger(share=0.05, **seconds)
        return forecast_looks(
            module, looks, ledger, epochs, shape=(3, 16, 16), probes=8, device=torch.device("cpu")
        )

    return run


def test_each_explanation_gets_what_those_before_it_leave(forecast):
    looks = [GradCam(), OcclusionMaps(probes=2), FilterVisuals(units=4, full_units=None)]
    # a probe's Grad-CAM takes one forward pass here: only those count as seconds
    found = forecast(looks, [4.0, 100.0], floor=0.35, at_start=6.0, at_end=1e6)
    assert found.pass_seconds == pytest.approx(PASS)
    assert found.allowed == pytest.approx({"start": 6.0, "epoch": 0.35, "end": 1e6, "test": 2.0})
    cells = found.cells
    assert cells["Grad-CAM"] == {"start": "8 probes", "epoch": "3 of 8 probes"}
    assert cells["occlusion maps"] == {"start": "1 of 2 probes", "epoch": "no time"}
    # what an ascent takes is bounded, not known
    assert cells["filters"]["epoch"] == cells["filters"]["start"] == "as time allows"
    assert cells["filters"]["end"].endswith(" layers × all units")


def test_longer_epochs_allow_more(forecast):
    (short, long) = (
        forecast([GradCam()], [own], floor=0.1, at_start=0.0, at_end=0.0) for own in (2.1, 13.0)
    )
    assert short.cells["Grad-CAM"] == {"start": "no time", "epoch": "1 of 8 probes"}
    assert long.cells["Grad-CAM"]["epoch"] == "6 of 8 probes"


def test_the_end_gets_a_tenth_of_the_training_less_what_the_beginning_took(forecast):
    found = forecast([Mistakes(mistakes=3)], [150.0] * 4, floor=1.0, at_start=5.0, at_end=None)
    assert found.allowed["end"] == pytest.approx(0.1 * 600 - 5.0)
    assert found.cells["mistakes"]["test"] == "3 mistakes"


def test_scores_of_fewer_than_ten_images_are_not_begun(forecast):
    # 0.1 s for each image, as measured
    for seconds, cell in ((0.95, "no time"), (1.25, "12 of 40 images")):
        found = forecast([Scores()], [1.0], floor=seconds, at_start=0.0, at_end=0.0)
        assert found.cells["scores"]["epoch"] == cell


def test_no_explanation_takes_time(forecast):
    assert forecast([], [1.0]) is None
