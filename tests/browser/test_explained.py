"""The page of ``explain`` in a real browser: maps over photographs, classes beside them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

import convlens
from convlens.experiment.explain import explain_images
from support.browser import Browser
from support.places import ROOT

pytestmark = pytest.mark.slow

PHOTOGRAPHS = ROOT / "tests" / "photographs"
SIZE = 28  # so small that the page averages no map
PHONE = (390, 844)  # CSS pixels, as the common phones have


@pytest.fixture(scope="module")
def explainer(browser):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.MaxPool2d(4), nn.Conv2d(8, 8, 3),
            nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
        )  # fmt: skip
    return convlens.wrap(network, ["cat", "cup of coffee", "<b>dog"], SIZE)


@pytest.fixture(scope="module")
def address(explainer, tmp_path_factory):
    home = tmp_path_factory.mktemp("explained") / "out"
    explain_images(
        explainer, "a network", str(PHOTOGRAPHS), target="top3", run_dir=str(home), say=print
    )
    return (home / "index.html").as_uri()


def test_every_number_is_that_of_the_explanation(browser: Browser, explainer, address):
    compared = 0
    with browser.page(1200, 1000) as page:
        page.open(address)
        for picture in ("cat", "coffee"):
            found = explainer.explain(PHOTOGRAPHS / f"{picture}.jpg", target="top3")
            signed = {(method, "image"): maps for method, maps in found.maps.items()}
            cams = {("grad_cam", layer): maps for layer, maps in found.grad_cam.items()}
            for (method, layer), maps in {**cams, **signed}.items():
                rows, columns = maps.shape[1:]
                read = page.run(
                    "['predicted', '2nd', '3rd'].map(role =>"
                    f" Array.from({{length: {rows * columns}}}, (_, cell) =>"
                    f" convlens.value('{picture}', 0, '{method}', {json.dumps(layer)},"
                    f" role, Math.floor(cell / {columns}), cell % {columns})))"
                )
                peaks = maps.abs().amax((1, 2), keepdim=True).numpy()
                error = np.abs(np.array(read).reshape(maps.shape) - maps.numpy())
                assert (error <= 2**-11 * peaks).all(), (picture, method)
                compared += maps.numel()
        assert compared > 2 * 3 * 3 * SIZE**2
        assert page.errors == [] and page.requests == [address]


def test_classes_stand_beside_the_maps(browser: Browser, explainer, address):
    with browser.page(1200, 1000) as page:
        page.open(address)
        page.screenshot("explained")
        shown = page.run(
            "[...document.querySelectorAll('.viewer-cards article')].map(card => card.innerText)"
        )
        for picture, words in zip(("cat", "coffee"), shown, strict=True):
            found = explainer.explain(PHOTOGRAPHS / f"{picture}.jpg", only="grad_cam")
            assert words.startswith(picture)
            for name, share in found.top(3):
                assert f"{name}\t{share:.2f}" in words
        # no epochs, so no slider; the sections below hold the activations only
        assert not page.run("document.getElementById('clock').checkVisibility()")
        assert page.run("document.querySelectorAll('section .classes').length") == 0
        assert page.run("document.querySelectorAll('section:not([hidden]) details').length") == 2
        assert page.run("document.getElementsByTagName('b').length") == 2  # the predicted classes
        assert page.errors == []


def test_a_phone_and_the_dark_have_room(browser: Browser, address):
    with browser.page(*PHONE, phone=True, dark=True) as page:
        page.open(address)
        assert page.run("document.documentElement.scrollWidth") == PHONE[0]
        page.screenshot("explained_phone_dark")
        assert page.errors == []
