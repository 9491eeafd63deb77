"""What the page of `make serve` shows, without a browser."""

from __future__ import annotations

import socket

import numpy as np
import pytest

import convlens
from convlens.cli.main import main
from convlens.core.errors import UserError
from convlens.draw.photograph import fit_photograph
from convlens.experiment.inputs import EXAMPLE
from convlens.serving import page as serving
from convlens.serving.page import METHODS, Overlay, answer
from support.places import ROOT

CAT = ROOT / "tests" / "photographs" / "cat.jpg"


@pytest.fixture(scope="module")
def explainer():
    return convlens.load(EXAMPLE / "shapes.ckpt", device="cpu")


def test_the_opacity_mixes_photograph_and_map():
    low, high = (np.full((2, 3, 3), value, np.uint8) for value in (40, 200))
    overlay = Overlay(low, high, "")
    assert np.array_equal(overlay.mix(0), low) and np.array_equal(overlay.mix(1), high)
    assert (overlay.mix(0.25) == 80).all()


@pytest.mark.parametrize("method", METHODS.values())
def test_the_answer_is_that_of_explain(explainer, method):
    classes, overlay = answer(explainer, str(CAT), method)
    found = explainer.explain(CAT, only=method)
    assert list(classes.items()) == found.top(5)
    assert np.array_equal(overlay.picture, fit_photograph(found.photograph, 480))
    assert overlay.covered.shape == overlay.picture.shape
    assert (overlay.covered != overlay.picture).any()
    assert found.top(1)[0][0] in overlay.caption


def test_a_file_that_is_no_image_is_named(explainer, tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(UserError, match=r"text\.jpg"):
        answer(explainer, str(tmp_path / "text.jpg"), "grad_cam")


def test_a_missing_gradio_is_a_line_with_its_command(monkeypatch, capsys):
    monkeypatch.setattr(serving.importlib.util, "find_spec", lambda name: None)
    assert main(["serve"]) == 2
    error = capsys.readouterr().err
    assert "serve needs gradio, which is not installed: `pip install 'convlens[serve]'`" in error


@pytest.mark.parametrize("port", ["-1", "65536", "1.5", "http"])
def test_a_wrong_port_is_refused(port, capsys):
    assert main(["serve", f"port={port}"]) == 2
    assert f"port={port}: expected a" in capsys.readouterr().err


@pytest.mark.slow
def test_a_port_in_use_is_said_in_a_line(explainer):
    pytest.importorskip("gradio", reason="comes with the extra `serve`")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        page = serving.build_page(explainer, "a network")
        with pytest.raises(UserError, match=f"port={port} host=127.0.0.1 cannot be served"):
            serving.start(page, host="127.0.0.1", port=port)
