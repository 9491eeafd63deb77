"""Runs beside each other: in one second, on one cache, in one folder."""

from __future__ import annotations

import json
import os
import signal
import sys
import time

import pytest

from convlens.cli.main import main
from convlens.core.errors import UserError
from convlens.rundir.lock import Hold
from support.lively import checkpoint, differences, kill_group, logged, start, told, wait_for
from support.tiny import TINY

FEW = [*TINY, "training.epochs=2", "callbacks=none"]


def test_a_folder_in_use_is_refused_in_one_line(tmp_path, capsys):
    """To a second resume, to overwrite=true, and to a run without words about it."""
    home = tmp_path / "run"
    assert main(["train", f"run_dir={home}", *FEW]) == 0
    before = checkpoint(home)["state_dict"]
    (home / "summary.json").unlink()  # a finished run is only looked at, which harms nobody
    capsys.readouterr()
    with Hold() as hold:
        hold.take(home)
        for words in (["resume", f"run={home}"],
                      ["train", f"run_dir={home}", *FEW, "overwrite=true"]):  # fmt: skip
            assert main(words) == 2
            line = capsys.readouterr().err.splitlines()[-1]
            assert f"{home} is in use: process {os.getpid()} on " in line
    assert all((before[n] == v).all() for n, v in checkpoint(home)["state_dict"].items())
    assert main(["resume", f"run={home}"]) == 0


def test_a_hold_ends_with_its_holder(tmp_path):
    """Whatever ends it: here kill -9."""
    script = (
        "import sys, time; from pathlib import Path\n"
        "from convlens.rundir.lock import Hold\n"
        "hold = Hold(); hold.take(Path(sys.argv[1])); print('held', flush=True)\n"
        "time.sleep(60)"
    )
    import subprocess

    process = subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    with Hold() as hold:
        with pytest.raises(UserError, match=f"process {process.pid} on"):
            hold.take(tmp_path)
        process.send_signal(signal.SIGKILL)
        process.wait()
        hold.take(tmp_path)


@pytest.mark.slow
def test_a_living_run_is_not_resumed_nor_overwritten(tmp_path):
    home = tmp_path / "run"
    words = [*FEW, "training.steps_per_epoch=4000"]
    process = start(["train", f"run_dir={home}", *words], tmp_path / "cache")
    try:
        wait_for(process, logged(home, "run folder"))
        for again in (["resume", f"run={home}"],
                      ["train", f"run_dir={home}", *FEW, "overwrite=true"]):  # fmt: skip
            other = start(again, tmp_path / "cache")
            (line,) = told(other)
            assert other.returncode == 2 and f"is in use: process {process.pid} on" in line
        assert process.poll() is None
    finally:
        kill_group(process)


@pytest.mark.slow
def test_two_runs_of_one_second_on_one_cold_cache(tmp_path):
    """Both right, in folders of their own, the pictures drawn once."""
    words = ["train", *FEW, "training.epochs=3", "data.pictures=400", "data.size=48"]
    assert main([*words, f"run_dir={tmp_path / 'alone'}"]) == 0
    while time.time() % 1 > 0.05:  # at a second's beginning
        time.sleep(0.01)
    both = [start(words, tmp_path / "cache", cwd=tmp_path) for _ in range(2)]
    assert [told(process) for process in both] == [[], []]
    assert [process.returncode for process in both] == [0, 0]
    homes = list((tmp_path / "outputs" / "scratch").iterdir())
    assert len(homes) == 2
    for home in homes:
        assert not differences(tmp_path / "alone", home)
    assert len(list((tmp_path / "cache").glob("arrays-*.json"))) == 3  # one a split
    assert not list((tmp_path / "cache").glob("*.tmp"))


@pytest.mark.slow
def test_two_resumes_at_once(tmp_path):
    """One goes on, the other is refused; the end is that of the run left alone."""
    words = [*FEW, "training.epochs=3", "training.steps_per_epoch=100"]
    assert main(["train", f"run_dir={tmp_path / 'alone'}", *words]) == 0
    home = tmp_path / "run"
    process = start(["train", f"run_dir={home}", *words], tmp_path / "cache")
    wait_for(process, logged(home, "epoch 1/"))
    kill_group(process)
    both = [start(["resume", f"run={home}"], tmp_path / "cache") for _ in range(2)]
    lines = [told(process) for process in both]
    assert sorted(process.returncode for process in both) in ([0, 2], [0, 0])
    refused = [line for said in lines for line in said]
    # one may have been so late that the other had ended
    assert all("is in use" in line for line in refused)
    assert not differences(tmp_path / "alone", home)
    assert json.loads((home / "summary.json").read_text())["epochs"] == 3
