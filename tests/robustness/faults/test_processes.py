"""Two processes: one is killed, or gets a signal, or the first one dies; nothing hangs or stays."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from support.lively import checkpoint, differences, logged, start, told, wait_for
from support.tiny import TINY

LONG = [*TINY, "model.batch_norm=true", "model.dropout=0.2", "training.epochs=3", "callbacks=none"]
LONG += ["training.steps_per_epoch=60", "trainer=ddp_cpu", "data.augment.rotation_degrees=20"]
LONG += ["trainer.log_every_n_steps=5"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory, cache) -> Path:
    home = tmp_path_factory.mktemp("alone") / "run"
    process = start(["train", f"run_dir={home}", *LONG], cache)
    assert told(process) == [] and process.returncode == 0
    return home


def children(pid: int) -> list[int]:
    """Processes that ``pid`` started and that run Python."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def gone(pids: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(_lives(pid) for pid in pids):
            return True
        time.sleep(0.2)
    return False


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def resumed(home: Path, cache: Path) -> None:
    process = start(["resume", f"run={home}"], cache)
    assert told(process) == [] and process.returncode == 0


def begun(home: Path, cache: Path, sign: str = "epoch 1/") -> tuple[subprocess.Popen, list[int]]:
    process = start(["train", f"run_dir={home}", *LONG], cache)
    wait_for(process, logged(home, sign))
    (child,) = children(process.pid)
    return process, [child]


def test_a_killed_process_ends_the_run_in_a_line(left_alone, cache, tmp_path):
    home = tmp_path / "run"
    process, others = begun(home, cache)
    os.kill(others[0], signal.SIGKILL)
    (line,) = told(process, 60)
    assert process.returncode in (1, 2)
    assert "process 2 of 2 was ended by SIGKILL" in line and f"convlens resume run={home}" in line
    assert gone(others, 1)
    resumed(home, cache)
    assert not differences(left_alone, home)


def test_the_others_follow_the_first_process_when_it_is_killed(left_alone, cache, tmp_path):
    home = tmp_path / "run"
    process, others = begun(home, cache)
    process.send_signal(signal.SIGKILL)
    assert gone(others, 30)
    out, err = process.communicate()
    assert "Traceback" not in out + err, err
    resumed(home, cache)
    assert not differences(left_alone, home)


@pytest.mark.parametrize("whom", ["first", "all"])
def test_sigterm_stops_all_at_one_step(left_alone, cache, tmp_path, whom):
    """Sent to the first one, as ``kill`` does, or to all, as a container's end does."""
    home = tmp_path / "run"
    process, others = begun(home, cache)
    time.sleep(0.1)
    for pid in [process.pid, *(others if whom == "all" else [])]:
        os.kill(pid, signal.SIGTERM)
    (line,) = told(process, 60)
    assert process.returncode == 143 and "stopped by SIGTERM after 1 of 3 epochs and " in line
    assert gone(others, 10)
    assert len(checkpoint(home, "stopped")["convlens_amid_epoch"]) == 2
    resumed(home, cache)
    assert not differences(left_alone, home)
