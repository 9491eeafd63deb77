"""Classes of one's own, by config: network, look, logger, data, optimizer; and none unasked."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
import torch
import yaml

from convlens.cli.main import main
from convlens.config.compose import compose
from convlens.core.errors import UserError
from convlens.experiment.module import build_module
from support.tiny import TINY

MOST = 25  # lines of each exercise, its config included
BACKBONE = {
    "strange_backbone.py": '''
from torch import nn


class Tiny(nn.Sequential):
    """Normalised images (B, C, H, W) to a feature map (B, 2 width, H / 2, W / 2)."""

    def __init__(self, channels: int, width: int):
        super().__init__(
            nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Sequential(nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU()),
        )
''',
    "model/tiny.yaml": """
defaults: [base, _self_]
_target_: strange_backbone.Tiny
name: tiny
weights: none
width: 4
head: {pool: average, hidden: []}
""",
}
LOOK = {
    "strange_look.py": '''
import numpy as np

from convlens.callbacks import ExplanationCallback


class Brightness(ExplanationCallback):
    """The mean of the probes, as a number and as a grey image."""

    def __init__(self, *, side: int, every_n_epochs: int = 1):
        super().__init__(every_n_epochs=every_n_epochs)
        self.side = side

    def pictures(self, look):
        mean = float(look.probes.images.mean())
        yield "brightness/mean", mean
        yield "brightness/probes", np.full((self.side, self.side, 3), int(255 * mean), np.uint8)
''',
    "callbacks/brightness.yaml": """
defaults: [none, _self_]
brightness: {_target_: strange_look.Brightness, side: 16}
""",
}
LOGGER = {
    "strange_logger.py": '''
from pathlib import Path

from pytorch_lightning.loggers import Logger


class Lines(Logger):
    """A line a step."""

    name, version = "lines", "0"

    def __init__(self, file: str):
        super().__init__()
        self.file = Path(file)

    def log_hyperparams(self, *_):
        pass

    def log_metrics(self, metrics, step=None):
        with self.file.open("a") as lines:
            lines.write(f"{step} {sorted(metrics)}\\n")
''',
    "logger/lines.yaml": """
defaults: [default, _self_]
lines: {_target_: strange_logger.Lines, file: lines.txt}
""",
}
SOURCE = {
    "strange_stripes.py": '''
import numpy as np


class Stripes:
    """Bright stripes on noise: they lie or stand."""

    class_names = ("lying", "standing")

    def __init__(self, size: int, channels: int, seed: int, count: int):
        self.shape, self.rng = (count, size, size, channels), np.random.default_rng(seed)

    def read(self):
        return {"train": self.draw(), "test": self.draw()}

    def draw(self):
        labels = np.arange(self.shape[0]) % 2
        images = self.rng.integers(0, 128, self.shape, np.uint8)
        images[labels == 0, ::4] = images[labels == 1, :, ::4] = 255
        return images, labels
''',
    "data/stripes.yaml": """
defaults: [base, _self_]
_target_: strange_stripes.Stripes
name: stripes
count: 60
""",
}


OPTIMIZER = {
    "strange_optimizer.py": '''
import torch


class Signs(torch.optim.Optimizer):
    """Moves every weight by the same step, against the sign of its gradient."""

    def __init__(self, params, lr: float, shrink: float):
        super().__init__(params, {"lr": lr, "shrink": shrink})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.mul_(1 - group["shrink"]).sub_(weight.grad.sign(), alpha=group["lr"])
        return loss
''',
    "optimizer/signs.yaml": """
_target_: strange_optimizer.Signs
lr: 0.002
shrink: 0.0
""",
}
SCHEDULE = {
    "strange_schedule.py": '''
class Halving:
    """Half the rate every so many epochs."""

    def __init__(self, every: float):
        self.every = every

    def __call__(self, time: float, epochs: int) -> float:
        return 0.5 ** (time // self.every)
''',
    "scheduler/halving.yaml": """
_target_: strange_schedule.Halving
every: 1
""",
}
EXERCISES = (BACKBONE, LOOK, LOGGER, OPTIMIZER, SCHEDULE, SOURCE)
NAMES = ["model._target_=strange_backbone.Tiny",
         "callbacks.brightness._target_=strange_look.Brightness",
        
         "logger.lines._target_=strange_logger.Lines"]  # fmt: skip


@pytest.fixture
def folder(tmp_path_factory, monkeypatch) -> Path:
    """Outside the repository, and outside where Python finds modules."""
    home = tmp_path_factory.mktemp("stranger")
    for exercise in EXERCISES:
        for name, text in exercise.items():
            file = home / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(text.lstrip())
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield home
    for name in ("strange_backbone", "strange_look", "strange_logger", "strange_count",
                 "strange_optimizer", "strange_schedule", "strange_stripes"):  # fmt: skip
        sys.modules.pop(name, None)


def words(folder: Path) -> list[str]:
    shared = [word for word in TINY if not word.startswith("model.")]
    return [f"config_dir={folder}", "model=tiny", "callbacks=brightness", "logger=lines", *shared,
            "training.epochs=2"]  # fmt: skip


def test_each_exercise_is_short():
    for exercise in EXERCISES:
        assert sum(text.strip().count("\n") + 1 for text in exercise.values()) <= MOST


@pytest.fixture
def run(at, folder) -> Path:
    assert main(["train", *words(folder), "run_dir=run"]) == 0
    return at / "run"


def test_all_three_are_trained_with(run, at):
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["_target_"] == "strange_backbone.Tiny" and config["model"]["width"] == 4
    state = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert state["model.backbone.0.0.weight"].shape == (4, 3, 3, 3)
    for epoch in (0, 1, 2):
        assert (run / "explanations" / f"epoch_{epoch:03d}" / "brightness" / "probes.jpg").exists()
    lines = (at / "lines.txt").read_text()
    assert "val/loss" in lines and "brightness/mean" in lines


STRIPES = "data._target_=strange_stripes.Stripes"


@pytest.mark.parametrize("typed", [["data=stripes"], [STRIPES, "data.count=60"]])
def test_a_data_set_is_trained_with_evaluated_and_resumed(at, folder, capsys, typed):
    shared = [word for word in TINY if not word.startswith("data.pictures")]
    typed = [f"config_dir={folder}", *typed, *shared, "training.epochs=2", "run_dir=run"]
    assert main(["train", *typed, "callbacks=none"]) == 0
    config = yaml.safe_load((at / "run" / "config.yaml").read_text())
    assert config["data"]["_target_"] == "strange_stripes.Stripes" and config["data"]["count"] == 60
    content = torch.load(at / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    assert list(content["hyper_parameters"]["class_names"]) == ["lying", "standing"]
    assert len(content["PictureData"]["test"]) == 60  # digests
    for command in (["eval", "ckpt=run/checkpoints/best.ckpt"], ["resume", "run=run"]):
        assert f"repeat {STRIPES}" in refused([*command, f"config_dir={folder}"], capsys)
        assert main([*command, f"config_dir={folder}", STRIPES]) == 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"test": self', '"tests": self'),
        ("np.uint8)", "np.int64)"),
        ("% 2", "% 3"),
        ("return images, labels", "return images[..., 0], labels"),
        ("return images, labels", "return images, labels[1:]"),
        ('return {"train": self.draw(), "test": self.draw()}', "return None"),
    ],
)
def test_a_data_set_that_reads_something_else_is_refused_in_a_line(at, folder, capsys, old, new):
    file = folder / "strange_stripes.py"
    file.write_text(file.read_text().replace(old, new))
    said = refused(["train", f"config_dir={folder}", "data=stripes"], capsys)
    assert "data: strange_stripes.Stripes.read() needs 't" in said and "(N, H, W, C)" in said


def test_a_data_set_of_ones_own_has_a_class(capsys):
    assert "data._target_=MODULE.CLASS" in refused(["train", "data=own"], capsys)


TYPED = ["optimizer._target_=strange_optimizer.Signs", "optimizer.shrink=0.0",
         "scheduler._target_=strange_schedule.Halving",
         "scheduler.every=1"]  # fmt: skip


@pytest.mark.parametrize("chosen", [["optimizer=signs", "scheduler=halving"], TYPED])
def test_an_optimizer_and_a_schedule_train_and_go_on(at, folder, capsys, chosen):
    typed = [*TINY, "callbacks=none", "training.epochs=2", "scheduler.warmup_epochs=0",
             "optimizer.lr=0.002", *chosen]  # fmt: skip
    assert main(["train", f"config_dir={folder}", *typed, "run_dir=run"]) == 0
    with open(at / "run" / "metrics.csv", newline="") as table:
        rows = list(csv.DictReader(table))
    assert [float(row["lr/model"]) for row in rows[1:]] == [0.002, 0.001]
    last = torch.load(at / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["optimizer_states"][0]["param_groups"][0]["shrink"] == 0.0
    fresh = build_module(compose([f"config_dir={folder}", *typed]), list("abcde")).state_dict()
    steps = last["global_step"] // 2
    name = "model.head.logits.bias"
    moved = (last["state_dict"][name] - fresh[name]).abs()
    assert 0 < moved.max() <= 1.001 * steps * (0.002 + 0.001)
    (at / "run" / "summary.json").unlink()
    names = [word for word in TYPED if "_target_" in word]
    for name in names:
        said = refused(["resume", "run=run", f"config_dir={folder}", name], capsys)
        assert "repeat" in said and name not in said
    assert main(["resume", "run=run", f"config_dir={folder}", *names]) == 0


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("optimizer._target_=pathlib.Path", "does not accept these values"),
        ("optimizer._target_=builtins.dict", "does not return a torch.optim.Optimizer"),
        (
            "scheduler._target_=builtins.dict",
            "scheduler: builtins.dict does not accept these values",
        ),
        ("optimizer._target_=strange_optimizer.Signs", "missing 1 required positional argument"),
    ],
)
def test_an_optimizer_or_schedule_that_is_none_is_told_in_a_line(at, folder, capsys, typed, said):
    words = [f"config_dir={folder}", *TINY, "callbacks=none", typed]
    assert said in refused(["train", *words, "run_dir=run"], capsys)


def test_keys_that_an_experiment_sets_for_ours_are_forgotten(at, folder):
    typed = [f"config_dir={folder}", "exp=finetune_vgg16", "scheduler=halving", "optimizer=signs"]
    config = compose(typed)
    assert config.scheduler.arguments == {"every": 1}
    assert config.optimizer.arguments == {"shrink": 0.0}
    assert compose([*typed, "scheduler.floor=0.5"]).scheduler.arguments["floor"] == 0.5


COUNT = """
import pytorch_lightning as L


class Count(L.Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        with open("epochs.txt", "a") as file:
            file.write(f"{trainer.current_epoch} ")
"""


def test_a_callback_that_explains_nothing_is_there_once(at, folder):
    (folder / "strange_count.py").write_text(COUNT)
    node = "defaults: [none, _self_]\ncount: {_target_: strange_count.Count}\n"
    (folder / "callbacks" / "count.yaml").write_text(node)
    typed = [f"config_dir={folder}", *TINY, "callbacks=count", "training.epochs=2", "run_dir=run"]
    assert main(["train", *typed]) == 0
    assert (at / "epochs.txt").read_text() == "0 1 "


def refused(typed: list[str], capsys) -> str:
    capsys.readouterr()
    assert main(typed) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    "command",
    [
        ["eval", "ckpt=run/checkpoints/best.ckpt"],
        ["predict", "ckpt=run/checkpoints/best.ckpt", "images=run/probes"],
        ["explain", "ckpt=run/checkpoints/best.ckpt", "image=run/probes", "only=grad_cam"],
        ["resume", "run=run", "training.epochs=3", "looking.seconds=3"],
    ],
)
def test_a_file_brings_no_code_until_it_is_named_again(run, folder, capsys, command):
    for name in NAMES:
        with pytest.MonkeyPatch.context() as patch:
            patch.delitem(sys.modules, name.partition("=")[2].partition(".")[0])
            said = refused(
                [*command, f"config_dir={folder}", *(n for n in NAMES if n != name)], capsys
            )
            assert f"repeat {name}" in said
            assert name.partition("=")[2].partition(".")[0] not in sys.modules
    if command[0] == "resume":
        command = ["resume", "run=run", "looking.seconds=3"]
    assert main([*command, f"config_dir={folder}", *NAMES]) == 0


def test_a_class_is_named_on_the_command_line_too(at, folder):
    typed = ["optimizer._target_=torch.optim.NAdam", "optimizer.momentum_decay=0.01"]
    typed += ["callbacks.b._target_=strange_look.Brightness", "callbacks.b.side=8"]
    config = compose([f"config_dir={folder}", *typed])
    assert config.optimizer.class_path == "torch.optim.NAdam"
    assert config.optimizer.arguments["momentum_decay"] == 0.01
    assert config.callbacks.looks["b"].arguments == {"side": 8}


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["config_dir=nowhere"], "config_dir=nowhere: there is no such folder"),
        (["model=tinny"], "model=tinny: no such model; did you mean tiny"),
        (
            ["model=tiny", "model._target_=os"],
            "model._target_=os: expected the dotted name of a class",
        ),
        (["training._target_=a.b"], "training._target_: no such key"),
        (["model.width=3"], "model.width: no such key"),
    ],
)
def test_mistakes_are_told_in_a_line(at, folder, typed, said):
    with pytest.raises(UserError) as caught:
        compose([f"config_dir={folder}", *typed])
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("model._target_=strange_backbone.Tony", "model._target_=strange_backbone.Tony cannot"),
        ("model._target_=nobody.Tiny", "model._target_=nobody.Tiny cannot be imported"),
        ("model.width=wide", "model.width=wide: expected a whole number (the default is 4)"),
        ("model.width=-1", "model: strange_backbone.Tiny does not accept these values"),
        ("model.width=0", "strange_backbone.Tiny makes no feature map from 3 × 16 × 16"),
        (
            "model._target_=pathlib.Path",
            "pathlib.Path does not return a torch.nn.Module",
        ),
        (
            "model._target_=convlens.models.vgg16.build_network",
            "of your own, not one of convlens",
        ),
    ],
)
def test_a_class_that_is_none_is_told_in_a_line(at, folder, capsys, typed, said):
    assert said in refused(["train", *words(folder), typed], capsys)
