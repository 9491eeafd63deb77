"""The promises: one seed one result, looking changes nothing, kill it anywhere."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from convlens.cli.main import main
from support.lively import heed_ctrl_c
from support.tiny import RANDOM_ATTENTION, TINY, TINY_VIT, TWO_UNFREEZES

# dropout, augmentation, batch norm, a schedule: whatever could draw numbers or carry state
LIVELY = [
    *TINY,
    "training.epochs=3",
    "model.batch_norm=true",
    "model.dropout=0.2",
    "model.head.dropout=0.3",
    "data.augment.rotation_degrees=20",
    "data.augment.horizontal_flip=true",
    "data.augment.brightness=0.2",
    "scheduler=cosine",
    "scheduler.warmup_epochs=0.5",
]


PATIENCE = 600  # seconds that an epoch may take to begin, on a busy machine


def weights(home: Path, which: str = "last") -> dict[str, torch.Tensor]:
    content = torch.load(home / "checkpoints" / f"{which}.ckpt", weights_only=True)
    return content["state_dict"]


def same(one: dict, other: dict) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory):
    home = tmp_path_factory.mktemp("alone") / "run"
    assert main(["train", f"run_dir={home}", *LIVELY]) == 0
    return home


def test_one_seed_gives_identical_weights(left_alone, tmp_path):
    torch.rand(7)  # whatever went on in the process before
    assert main(["train", f"run_dir={tmp_path / 'again'}", *LIVELY]) == 0
    assert same(weights(left_alone), weights(tmp_path / "again"))
    blind = [*LIVELY, "callbacks=none"]  # which changes nothing, see below
    assert main(["train", f"run_dir={tmp_path / 'other'}", *blind, "seed=1"]) == 0
    assert not same(weights(left_alone), weights(tmp_path / "other"))


def test_weights_unchanged_by_looking(left_alone, tmp_path):
    assert (left_alone / "explanations" / "epoch_003").is_dir()
    assert main(["train", f"run_dir={tmp_path / 'blind'}", *LIVELY, "callbacks=none"]) == 0
    assert not (tmp_path / "blind" / "explanations").exists()
    for which in ("last", "best"):
        assert same(weights(left_alone, which), weights(tmp_path / "blind", which))


def test_checkpoints_are_data(left_alone):
    """They load where no code of a file is run, and hold nothing but plain values and tensors."""
    files = sorted((left_alone / "checkpoints").glob("*.ckpt"))
    assert [file.name for file in files] == ["best.ckpt", "last.ckpt"]
    for file in files:
        waiting = [torch.load(file, weights_only=True)]
        while waiting:
            value = waiting.pop()
            if isinstance(value, dict):
                waiting += [*value.keys(), *value.values()]
            elif isinstance(value, list | tuple):
                waiting += value
            else:
                plain = (torch.Tensor, str, int, float, bytes, type(None))
                assert isinstance(value, plain), type(value)


def kill_in_epoch(home: Path, words: list[str], epoch: int) -> None:
    """Start a run in a process of its own and ``kill -9`` it amid ``epoch`` (from 1)."""
    process = subprocess.Popen(
        [sys.executable, "-m", "convlens", "train", f"run_dir={home}", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    log = home / "train.log"
    sign = f"epoch {epoch - 1}/" if epoch > 1 else "run folder"
    deadline = time.monotonic() + PATIENCE
    try:
        while not (log.exists() and sign in log.read_text()):
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline, f"epoch {epoch} did not begin"
            time.sleep(0.05)
        time.sleep(0.3)  # into the epoch
        assert process.poll() is None, "the run ended before it could be killed"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


# long enough epochs to be killed amid; 120 steps of a tiny network, and looks that are soon done
DEAR = ("scores", "mistakes", "class_means", "activation_grids", "occlusion_maps", "filter_visuals",
        "learning_curves", "reliability")  # fmt: skip
PATIENT = "looking={seconds: 1000, first_seconds: 1000, last_seconds: 1000}"
LONG = [*LIVELY, "training.steps_per_epoch=120", PATIENT]
LONG += [f"callbacks.{name}=null" for name in DEAR]
# dropout of attention and of paths, which draw random numbers inside the blocks
LONG_VIT = [
    *TINY_VIT, *RANDOM_ATTENTION, "training.epochs=3", "training.steps_per_epoch=120",
    "data.augment.brightness=0.2", PATIENT, *(f"callbacks.{name}=null" for name in DEAR),
]  # fmt: skip


@pytest.fixture(scope="module")
def long_left_alone(request, tmp_path_factory):
    """Train without interruption; return the words and the run folder."""
    words = getattr(request, "param", LONG)
    home = tmp_path_factory.mktemp("long") / "run"
    assert main(["train", f"run_dir={home}", *words]) == 0
    return words, home


@pytest.mark.parametrize(
    ("long_left_alone", "epoch"),
    [
        pytest.param(LONG, 1, marks=pytest.mark.slow),
        (LONG, 2),
        pytest.param(LONG, 3, marks=pytest.mark.slow),
        pytest.param(LONG_VIT, 2, marks=pytest.mark.slow),
    ],
    indirect=["long_left_alone"],
    ids=["convnet-1", "convnet-2", "convnet-3", "transformer-2"],
)
def test_kill_9_and_resume_end_with_the_same_bits(long_left_alone, tmp_path, epoch):
    (words, alone), home = long_left_alone, tmp_path / "killed"
    kill_in_epoch(home, words, epoch)
    assert not (home / "summary.json").exists()
    assert main(["resume", f"run={home}"]) == 0
    for which in ("last", "best"):
        assert same(weights(alone, which), weights(home, which))
    whole, resumed = ((h / "metrics.csv").read_text() for h in (alone, home))
    assert [_results(line) for line in whole.splitlines()] == [
        _results(line) for line in resumed.splitlines()
    ]


def _results(line: str) -> list[str]:
    """A row of metrics.csv without its last column, the seconds of looking."""
    return line.split(",")[:-1]


def test_resume_of_a_finished_run_changes_nothing(left_alone):
    before = weights(left_alone)
    assert main(["resume", f"run={left_alone}"]) == 0
    assert same(before, weights(left_alone))


def test_resume_of_a_run_that_stopped_early_stays_stopped(tmp_path):
    home = tmp_path / "run"
    words = [*LIVELY, "training.epochs=30", "training.early_stopping=2", "optimizer.lr=0.5"]
    words += ["callbacks=none"]
    assert main(["train", f"run_dir={home}", *words]) == 0
    rows = (home / "metrics.csv").read_text()
    before = weights(home)
    assert len(rows.splitlines()) < 30
    (home / "summary.json").unlink()  # as if killed right after the last epoch
    assert main(["resume", f"run={home}"]) == 0
    assert (home / "summary.json").exists()
    assert (home / "metrics.csv").read_text() == rows
    assert same(before, weights(home))


@pytest.mark.slow
def test_ctrl_c_says_how_to_resume(tmp_path):
    home = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "convlens", "train", f"run_dir={home}", *LONG],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,
    )
    while not (home / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 130
    (line,) = [line for line in said.splitlines() if line.startswith("convlens: ")]
    assert f"convlens resume run={home}" in line
    assert "Traceback" not in said


# ------------------------------------------------------------- a schedule, killed in each phase

PHASED = [
    *LIVELY, *TWO_UNFREEZES, "training.steps_per_epoch=100", "callbacks=none",
    "optimizer=adam", "model.dropout=0.2",
]  # fmt: skip


@pytest.fixture(scope="module")
def phased_left_alone(tmp_path_factory):
    home = tmp_path_factory.mktemp("phased") / "run"
    assert main(["train", f"run_dir={home}", *PHASED]) == 0
    return home


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [2, 4, 6])
def test_a_schedule_killed_in_each_phase_and_resumed_ends_with_the_same_bits(
    phased_left_alone, tmp_path, epoch
):
    """Weights, the optimizer's state and the learning rates; two epochs a phase."""
    home = tmp_path / "killed"
    kill_in_epoch(home, PHASED, epoch)
    assert not (home / "summary.json").exists()
    assert main(["resume", f"run={home}"]) == 0
    one, other = (
        torch.load(h / "checkpoints" / "last.ckpt", weights_only=True)
        for h in (phased_left_alone, home)
    )
    assert same(one["state_dict"], other["state_dict"])
    (one,), (other,) = one["optimizer_states"], other["optimizer_states"]
    assert one["param_groups"] == other["param_groups"]
    assert [group["name"] for group in one["param_groups"]] == ["head", "last", "base"]
    assert one["state"].keys() == other["state"].keys() and one["state"]
    for number, values in one["state"].items():
        assert same(values, other["state"][number])


def test_frozen_parameters_and_statistics_unchanged_by_a_run(tmp_path):
    """Against the weights that the run was started with."""
    from convlens.config.compose import compose
    from convlens.experiment.module import build_module

    words = [*LIVELY, *TWO_UNFREEZES, "callbacks=none", "data.pictures=60"]
    words.append("finetune.phases=[{epochs: 1, train: [head], lr: 0.1, augment: false},"
                 "{epochs: 2, train: [head, last], lr: 0.1}]")  # fmt: skip
    assert main(["train", f"run_dir={tmp_path / 'run'}", *words]) == 0
    fresh = build_module(compose(words), list("abcde")).state_dict()
    for name, value in weights(tmp_path / "run").items():
        if name.startswith("model.backbone.block1"):
            assert torch.equal(value, fresh[name]), name
        elif name.startswith("model.backbone.block2") and "num_batches" not in name:
            assert not torch.equal(value, fresh[name]), name


def test_resume_keeps_a_plateau(tmp_path):
    """A phase that ends on a plateau ends there too when the run is taken up again."""
    words = [*LIVELY, *TWO_UNFREEZES, "callbacks=none", "data.pictures=60"]
    phases = (
        "finetune.phases=[{epochs: 9, train: [head], lr: 0.5,"
        " until: {metric: val/loss, patience: 2}}, {epochs: 2, train: [last], lr: 0.001}]"
    )
    home = tmp_path / "run"
    assert main(["train", f"run_dir={home}", *words, phases]) == 0
    rows = (home / "metrics.csv").read_text()
    assert 2 < len(rows.splitlines()) - 2 < 11
    before = weights(home)
    (home / "summary.json").unlink()
    assert main(["resume", f"run={home}"]) == 0
    assert (home / "metrics.csv").read_text() == rows
    assert same(before, weights(home))


def test_a_checkpoint_of_another_schedule_is_refused_in_one_line(tmp_path, capsys):
    import yaml

    home = tmp_path / "run"
    words = [*LIVELY, *TWO_UNFREEZES, "callbacks=none", "data.pictures=60"]
    assert main(["train", f"run_dir={home}", *words]) == 0
    config = yaml.safe_load((home / "config.yaml").read_text())
    config["finetune"]["phases"][1]["epochs"] = 3
    config["training"]["epochs"] = 7
    (home / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    capsys.readouterr()
    assert main(["resume", f"run={home}"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "finetune.phases.1.epochs differs from the checkpoint" in said
