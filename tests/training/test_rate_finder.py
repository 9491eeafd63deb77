"""The learning-rate range test: where a quadratic's loss falls, and the command with its plot."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from convlens.cli.main import main
from convlens.training.rate_finder import run_range_test
from support.tiny import TINY


def test_on_a_quadratic_the_rate_lies_below_where_it_diverges():
    """loss = x² / 2 · 100: gradient descent converges below 2 / 100 and explodes above."""
    x = torch.tensor(1.0, dtype=torch.float64)

    def step(rate: float) -> torch.Tensor:
        nonlocal x
        loss = 50 * x**2
        x = x - rate * 100 * x
        return loss

    found = run_range_test(step, low=1e-6, high=10, steps=300)
    assert 1e-4 < found.best < 2e-2
    assert found.rates[-1] < 10  # it ended when the loss exploded
    ratios = np.diff(np.log(found.rates))
    np.testing.assert_allclose(ratios, ratios[0])


def test_a_loss_that_never_falls_gives_no_rate():
    rising = iter(range(1, 1000))
    found = run_range_test(
        lambda rate: torch.tensor(float(next(rising))), low=1e-6, high=1, steps=30
    )
    assert found.best is None


def test_the_command_names_the_key_and_writes_the_plot(at, capsys):
    words = ["lr-find", *TINY, "steps=20", "plot=found/it.png"]
    assert main(words) == 0
    first = capsys.readouterr().out
    assert "plot  found/it.png" in first
    pixels = np.asarray(Image.open(at / "found" / "it.png").convert("RGB"), float)
    assert pixels.std() > 5 and min(pixels.shape[:2]) > 200
    assert not (at / "outputs").exists()
    plot = (at / "found" / "it.png").read_bytes()
    assert main(words) == 2  # another's plot may lie there
    assert "plot=found/it.png exists" in capsys.readouterr().err
    assert main([*words, "overwrite=true"]) == 0
    assert capsys.readouterr().out == first  # the same batches, the same answer
    assert (at / "found" / "it.png").read_bytes() == plot


def test_without_a_place_every_plot_has_its_own(at, capsys):
    for _ in range(2):
        assert main(["lr-find", *TINY, "steps=10"]) == 0
    found = sorted((at / "outputs").rglob("lr_find.png"))
    assert len(found) == 2
    assert all(str(file.relative_to(at)) in capsys.readouterr().out for file in found[1:])


def test_with_a_schedule_it_is_the_first_phases_rate(at, capsys):
    words = ["lr-find", "data=shapes", "data.pictures=60", "data.classes=2", "model.weights=none"]
    words += ["exp=features_vgg16", "data.size=32", "steps=25", "low=1e-5", "high=10"]
    assert main([*words, "trainer=cpu", "training.batch_size=4", "plot=it.png"]) == 0
    assert "finetune.phases.0.lr.head=" in capsys.readouterr().out


def test_bounds_are_checked(at, capsys):
    for word in ("low=2", "high=0", "steps=3", "low=few"):
        assert main(["lr-find", *TINY, word]) == 2
        assert word.partition("=")[0] in capsys.readouterr().err
