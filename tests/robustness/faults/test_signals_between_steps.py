"""A signal where no step is under way is obeyed at once, and resume goes on to the same bits."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from convlens.callbacks import GradCam, Looks

from convlens.cli.main import main
from convlens.experiment import summary
from convlens.training import ClassifierModule
from convlens.training.finetune import features, phases
from support.lively import differences
from support.tiny import TINY

GROUPS = "finetune.groups={head: head, last: backbone.block2, base: backbone}"
PHASES = (
    "finetune.phases=[{epochs: 1, train: [head], lr: {head: 0.01}, augment: false},"
    "{epochs: 1, train: [head, last], lr: 0.005, augment: false}]"
)
STORED = [*TINY, GROUPS, PHASES, "training.epochs=null", "callbacks=none"]
STORED += ["logger.tensorboard=false", "cache_features=always"]
DEAR = ("scores", "mistakes", "class_means", "activation_grids", "occlusion_maps")
DEAR += ("filter_visuals", "augmentation_preview")
LOOKS = [*TINY, "training.epochs=1", "logger.tensorboard=false"]
LOOKS += ["looking={seconds: 1000, first_seconds: 1000, last_seconds: 1000}"]
LOOKS += [f"callbacks.{name}=null" for name in DEAR]


@pytest.fixture(autouse=True)
def answered():
    """Ctrl-C is not ignored, as it is in a shell's background, from which tests may be run."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Callable[[list[str]], Path]:
    """The run left alone, made once for each list of words."""
    made: dict[str, Path] = {}

    def run(words: list[str]) -> Path:
        if str(words) not in made:
            made[str(words)] = tmp_path_factory.mktemp("alone") / "run"
            assert main(["train", f"run_dir={made[str(words)]}", *words]) == 0
        return made[str(words)]

    return run


class Fires:
    """In place of a function: at its call number ``at`` a signal is sent before it runs."""

    def __init__(self, plain: Callable, at: int, number: int = signal.SIGTERM):
        self.plain, self.at, self.number, self.calls = plain, at, number, 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.calls == self.at:
            os.kill(os.getpid(), self.number)
        return self.plain(*args, **kwargs)


CASES = [
    # amid the first phase's features; at the beginning of the second phase's
    (STORED, features, "_forward", 2, 0, signal.SIGTERM),
    (STORED, phases.Phases, "_fetch", 2, 1, signal.SIGINT),
    # the pass over validation and training images of epoch 0, and a look beside it
    (STORED, ClassifierModule, "evaluate", 1, 0, signal.SIGTERM),
    (LOOKS, GradCam, "pictures", 1, 0, signal.SIGTERM),
    # the last looks, which may have a minute each, and the page, behind all of it
    (LOOKS, Looks, "on_train_end", 1, 1, signal.SIGINT),
    (LOOKS, summary, "report", 1, None, signal.SIGTERM),
]


@pytest.mark.parametrize(("words", "place", "name", "at", "epochs", "number"), CASES)
def test_between_steps(
    tmp_path, capsys, monkeypatch, alone, words, place, name, at, epochs, number
):
    left = alone(words)
    monkeypatch.setenv("CONVLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(features, "BATCH", 16)
    fires = Fires(getattr(place, name), at, number)
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(place, name, lambda *args, **kwargs: fires(*args, **kwargs))
        assert main(["train", f"run_dir={tmp_path / 'run'}", *words]) == 128 + number
    assert fires.calls == at  # nothing of its kind was begun any more
    said = capsys.readouterr().err
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("convlens: ")]
    assert f"stopped by {number.name}" in line
    if epochs is not None:
        assert f"after {epochs} of " in line and f"convlens resume run={tmp_path / 'run'}" in line
    assert main(["resume", f"run={tmp_path / 'run'}"]) == 0
    assert (tmp_path / "run" / "report.html").exists()
    assert not differences(left, tmp_path / "run")
