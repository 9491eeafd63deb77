"""Every experiment file runs: one batch of everything, explanations included."""

from __future__ import annotations

import pytest

from convlens.cli.main import main
from convlens.config import compose, groups


@pytest.mark.parametrize("experiment", groups()["experiment"])
def test_experiment_runs_offline_on_shapes(experiment, at, capsys):
    data = compose([f"exp={experiment}", "data=shapes"])["data"]
    words = ["data=shapes", "data.pictures=60", f"data.classes={2 if data['size'] == 150 else 5}"]
    words += ["debug=fast_dev_run", "precision=32", "trainer=cpu", "probes.count=2"]
    # one unit of each layer shows that the path runs; how pictures look is tested elsewhere
    words += ["callbacks.filter_visuals.units=1", "callbacks.filter_visuals.full_units=1"]
    words += ["callbacks.filter_visuals.steps=2"]
    assert main(["train", f"exp={experiment}", *words]) == 0
    printed = capsys.readouterr().out
    assert "test, epoch 1" in printed
    assert "failed" not in printed


@pytest.mark.parametrize(
    "experiment",
    [
        name
        for name in groups()["experiment"]
        if compose([f"exp={name}"])["data"]["name"] in ("cats_dogs", "mnist", "flowers")
    ],
)
def test_experiment_runs_on_its_own_data(experiment, at, shared_data, monkeypatch):
    monkeypatch.setenv("CONVLENS_DATA", str(shared_data))
    words = ["debug=fast_dev_run", "precision=32", "trainer=cpu", "callbacks=none"]
    assert main(["train", f"exp={experiment}", *words]) == 0
