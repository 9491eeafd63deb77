"""Several runs by one command."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from convlens.cli.main import main
from convlens.cli.train import split_multirun
from convlens.cli.words import split_make_words
from convlens.config.compose import split_values
from convlens.core import system
from convlens.core.errors import UserError
from convlens.experiment.multirun import build_jobs
from support.lively import heed_ctrl_c
from support.tiny import TINY

SHORT = [*TINY, "training.epochs=1", "callbacks=none", "logger=csv"]


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("optimizer.lr=1e-3,1e-4", ["optimizer.lr=0.001", "optimizer.lr=0.0001"]),
        ("seed=range(3)", ["seed=0", "seed=1", "seed=2"]),
        ("seed=choice(3,5)", ["seed=3", "seed=5"]),
        ("exp=scratch,reproduce/mnist_dense",
         ["experiment=scratch", "experiment=reproduce/mnist_dense"]),
        ("model.filters=[4,6],[8]", ["model.filters=[4,6]", "model.filters=[8]"]),
        ("model.filters=[4,6]", ["model.filters=[4,6]"]),
        ("data.dir=/a,b", ["data.dir=/a,b"]),
        ("run_dir=a,b", ["run_dir=a,b"]),
        ("probes.files=[a b.png,c.png]", ["probes.files=[a b.png,c.png]"]),
    ],
)  # fmt: skip
def test_values_are_taken_apart_as_hydra_does(word, values):
    assert split_values(word) == values


def test_values_without_an_end_are_refused():
    with pytest.raises(UserError, match="not a list of values"):
        split_values("optimizer.lr=interval(0,1)")


def test_the_words_that_ask_for_it():
    assert split_multirun(["seed=0,1", "multirun=true"]) == (True, ["seed=0,1"])
    assert split_multirun(["-m", "seed=0,1"]) == (True, ["seed=0,1"])
    assert split_multirun(["seed=0"]) == (False, ["seed=0"])
    assert split_multirun(["seed=0", "multirun=false"]) == (False, ["seed=0"])
    # as make hands them over
    assert split_multirun(split_make_words(["--make=seed=0,1 multirun=true"])) == (
        True,
        ["seed=0,1"],
    )
    assert split_multirun(split_make_words(["--make=args=-m\\ seed=0,1"])) == (True, ["seed=0,1"])
    with pytest.raises(UserError, match="multirun=yes"):
        split_multirun(["multirun=yes"])


def test_combinations_are_numbered_folders_below_run_dir(at):
    jobs = build_jobs(["optimizer.lr=1e-3,1e-4", "seed=0,1", "run_dir=a,b", "data.size=32"])
    assert [str(job.home) for job in jobs] == ["a,b/0", "a,b/1", "a,b/2", "a,b/3"]
    assert jobs[1].label == "optimizer.lr=0.001 seed=1"
    assert [(job.config.optimizer.lr, job.config.seed) for job in jobs] == [
        (0.001, 0), (0.001, 1), (0.0001, 0), (0.0001, 1)
    ]  # fmt: skip


def test_a_keys_last_word_wins(at):
    assert [job.config.seed for job in build_jobs(["seed=0,1", "seed=5"])] == [5]


def test_several_values_without_it_are_refused(at, capsys):
    assert main(["train", "seed=0,1"]) == 2
    said = "seed=0,1: several values; set multirun=true to train one run for each"
    assert said in capsys.readouterr().err


def test_a_mistake_in_one_combination_is_told_before_any_run(at, capsys):
    assert main(["train", "multirun=true", "scheduler=constant,cosin"]) == 2
    assert "did you mean cosine" in capsys.readouterr().err
    (at / "sweep" / "1").mkdir(parents=True)
    (at / "sweep" / "1" / "config.yaml").touch()
    assert main(["train", "multirun=true", "seed=0,1", "run_dir=sweep"]) == 2
    assert "run_dir=sweep/1 already contains a run" in capsys.readouterr().err
    assert not (at / "outputs").exists() and not (at / "sweep" / "0").exists()


def test_torchrun_cannot_start_it(at, capsys, monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert main(["train", "multirun=true", "seed=0,1"]) == 2
    assert "without torchrun" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["resume=true"], "resume=true belongs to multirun=true"),
        (["multirun=true", "resume=true", "seed=0,1"], "resume=true needs run_dir="),
        (["multirun=true", "resume=yes", "seed=0,1"], "resume=yes: expected true or false"),
    ],
)
def test_resume_needs_the_folder_of_several_runs(words, said, at, capsys):
    assert main(["train", *words]) == 2
    assert said in capsys.readouterr().err


def test_finished_runs_are_kept_and_others_continued(at, monkeypatch, capsys):
    commands = []

    class Finished:
        def __init__(self, status):
            self.status = status

        def wait(self, _=None):
            return self.status

    def run(command):  # in this process, which saves the start-up
        commands.append(command[3:])
        os.environ.pop("CONVLENS_RUN_DIR", None)
        return Finished(main(command[3:]))

    monkeypatch.setattr(system, "start_group", run)
    words = [*SHORT, "multirun=true", "seed=0,1", "run_dir=runs"]
    assert main(["train", *words]) == 0
    (at / "runs" / "1" / "report.html").unlink()  # as if killed before it was written
    shutil.rmtree(at / "runs" / "0")
    assert main(["train", *words, "resume=true"]) == 0
    assert [command[0] for command in commands] == ["train", "train", "train", "resume"]
    assert "run=runs/1" in commands[-1]
    assert main(["train", *words, "resume=true"]) == 0 and len(commands) == 4
    assert "run 2 of 2: seed=1 (finished before)" in capsys.readouterr().out
    assert main(["train", *words, "resume=true", "data.size=20"]) == 2
    assert "runs contains the runs of other words" in capsys.readouterr().err
    os.environ.pop("CONVLENS_RUN_DIR", None)


@pytest.mark.slow
def test_each_combination_is_a_run_of_its_own_and_a_failed_one_stops_no_other(at, capsys):
    """Two pictures a class are too few for the first combination's split."""
    words = [*SHORT, "data.pictures=2,60", "run_dir=sweep"]
    assert main(["train", *words, "multirun=true"]) == 1
    assert not (at / "sweep" / "0").exists()
    summary = json.loads((at / "sweep" / "1" / "summary.json").read_text())
    printed = capsys.readouterr().out
    first, second = (line for line in printed.splitlines() if line.startswith("│"))
    assert "data.pictures=2 " in first and "failed (2)" in first
    for part in ("data.pictures=60", f"{summary['test']['accuracy']:.4f}", "sweep/1"):
        assert part in second


@pytest.mark.slow
def test_ctrl_c_ends_the_run_and_starts_no_other(at):
    words = [*SHORT, "multirun=true", "seed=0,1", "training.epochs=100000", "scheduler=constant"]
    command = [sys.executable, "-m", "convlens", "train", *words]
    whole = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,
    )
    with whole:
        lines = []
        for line in whole.stdout:
            lines.append(line)
            if line.startswith("epoch 1/"):
                os.kill(whole.pid, signal.SIGINT)
        assert whole.wait(60) == 130
    printed = "".join(lines)
    assert "run 1 of 2" in printed and "run 2 of 2" not in printed
    first, second = (line for line in lines if line.startswith("│"))
    assert "interrupted" in first and "not started" in second
    assert len(list((at / "outputs" / "scratch").iterdir())) == 1


@pytest.mark.slow
def test_folds_are_runs_of_a_cross_validation(tmp_path, capsys):
    from support.tiny import draw_folder

    assert split_multirun(["folds=3", "seed=1"]) == (
        True,
        ["seed=1", "data.split.folds=3", "data.split.fold=0,1,2"],
    )
    for wrong in ("1", "x", "-2", "1001", "2.5"):
        with pytest.raises(UserError, match=f"folds={wrong}: expected a whole number from 2"):
            split_multirun([f"folds={wrong}"])
    folder = draw_folder(tmp_path / "pictures", {"cats": 12, "dogs": 9})
    words = [word for word in SHORT if not word.startswith("data.pictures")]
    words += ["data=image_folder", f"data.dir={folder}", "training.batch_size=4"]
    assert main(["train", "folds=2", f"run_dir={tmp_path / 'runs'}", *words]) == 0
    said = capsys.readouterr().out
    accuracies = [
        json.loads((tmp_path / "runs" / str(n) / "summary.json").read_text())["test"]["accuracy"]
        for n in range(2)
    ]
    mean = sum(accuracies) / 2
    (line,) = [line for line in said.splitlines() if "mean" in line.split()]
    assert f"{mean:.4f}" in line and "of 2 runs" in line
    (line,) = [line for line in said.splitlines() if "standard deviation" in line]
    assert f"{abs(accuracies[0] - accuracies[1]) / 2**0.5:.4f}" in line
