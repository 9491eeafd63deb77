"""A really full disk: a small file system, filled at the moment in question.

What a resumed run needs stops the run in a line; what only tells of the run is said once, left
out, and named in ``summary.json``.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import pytorch_lightning as L
from convlens.callbacks import EpochLog, Looks

from convlens.cli.main import main
from convlens.experiment import train as runs
from support.lively import checkpoint, differences
from support.tiny import TINY

FEW = [*TINY, "training.epochs=3", "callbacks=none", "data.cache=ram"]


@pytest.fixture
def small(tmp_path):
    """A file system of three megabytes, where this machine lets one be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a file system here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, left: int = 0) -> Path:
    """Take what room there is but ``left`` bytes."""
    ballast = folder / "ballast"
    free = os.statvfs(folder)
    size = max(free.f_bavail * free.f_frsize - left, 0)
    with open(ballast, "ab") as file:
        try:
            while size > 0:
                size -= file.write(bytes(min(size, 4096)))
                file.flush()
        except OSError:
            pass
    return ballast


class Filler(L.Callback):
    """Fills the disk at one hook of one epoch."""

    def __init__(self, folder: Path, hook: str, epoch: int, left: int):
        self.folder, self.epoch, self.left = folder, epoch, left
        setattr(self, hook, self._act)

    def _act(self, trainer, *_) -> None:
        if trainer.current_epoch == self.epoch:
            for log in self.folder.rglob("train.log"):
                with open(log, "ab") as file:  # its last page shall have no room either
                    file.write(b"\n" * (-file.tell() % 4096))
            fill(self.folder, self.left)


def filled(monkeypatch, folder: Path, hook: str, epoch: int, left: int = 0, first: bool = False):
    """Let the next run's disk be full from ``hook`` of ``epoch`` on."""
    plain = runs.build_trainer

    def build_trainer(*args):
        trainer, *rest = plain(*args)
        place = 0 if first else _behind(trainer.callbacks, EpochLog)
        trainer.callbacks.insert(place, Filler(folder, hook, epoch, left))
        return trainer, *rest

    monkeypatch.setattr(runs, "build_trainer", build_trainer)


def _behind(callbacks: list, kind: type) -> int:
    return 1 + next(i for i, callback in enumerate(callbacks) if isinstance(callback, kind))


def one_line(capsys) -> str:
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err, err
    (line,) = [line for line in err.splitlines() if line.startswith("convlens: ")]
    return line


def test_a_checkpoint_that_finds_no_room(small, tmp_path, capsys, monkeypatch):
    assert main(["train", f"run_dir={tmp_path / 'alone'}", *FEW]) == 0
    home = small / "run"
    capsys.readouterr()
    with monkeypatch.context() as patch:
        filled(patch, small, "on_train_epoch_end", 1, left=4096)
        assert main(["train", f"run_dir={home}", *FEW]) == 2
    line = one_line(capsys)
    assert ".ckpt was not written" in line and f"convlens resume run={home}" in line
    assert not list((home / "checkpoints").glob(".*"))
    assert checkpoint(home)["epoch"] == 0
    (small / "ballast").unlink()
    assert main(["resume", f"run={home}"]) == 0
    assert not differences(tmp_path / "alone", home)


@pytest.mark.slow
def test_what_only_tells_of_a_run_is_left_out_and_said(small, tmp_path, capsys, monkeypatch):
    """The event file, metrics.csv and train.log on a full disk; checkpoints find room elsewhere."""
    home = small / "run"
    elsewhere = tmp_path / "checkpoints"
    elsewhere.mkdir()
    home.mkdir()
    (home / "checkpoints").symlink_to(elsewhere)
    with monkeypatch.context() as patch:
        filled(patch, small, "on_train_epoch_start", 1, first=True)
        status = main(["train", f"run_dir={home}", *FEW])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err and "Exception in thread" not in err
    # the last thing to be written is the summary, and it cannot be
    assert status == 2 and "summary.json was not written" in err
    assert f"convlens resume run={home}" in err
    said = out + err
    assert said.count("event file is incomplete") == 1
    assert said.count("metrics.csv lacks its last rows") == 1
    assert said.count("train.log lacks lines") == 1
    assert checkpoint(home)["epoch"] == 2
    (small / "ballast").unlink()
    assert main(["resume", f"run={home}"]) == 0
    assert len((home / "metrics.csv").read_text().splitlines()) == 5
    assert json.loads((home / "summary.json").read_text())["failures"] == []


@pytest.mark.slow
def test_an_event_file_alone_costs_nothing_but_itself(small, tmp_path, capsys, monkeypatch):
    home = tmp_path / "run"
    home.mkdir()
    (home / "tensorboard").symlink_to(small)
    assert main(["train", f"run_dir={tmp_path / 'alone'}", *FEW]) == 0
    with monkeypatch.context() as patch:
        filled(patch, small, "on_train_epoch_start", 1, first=True)
        assert main(["train", f"run_dir={home}", *FEW]) == 0
    out, err = capsys.readouterr()
    assert out.count("event file is incomplete") == 2  # at once, and in the closing lines
    assert "Traceback" not in out + err and "Exception in thread" not in err
    (line,) = json.loads((home / "summary.json").read_text())["failures"]
    assert "event file" in line
    assert all((checkpoint(home)["state_dict"][n] == v).all()
               for n, v in checkpoint(tmp_path / "alone")["state_dict"].items())  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("aside", [False, True])
def test_pictures_and_report_that_find_no_room(small, tmp_path, capsys, monkeypatch, aside):
    """Also where a thread writes them, as beside an accelerator."""
    plain = Looks.__init__

    def set_aside(self, *order, **more):
        plain(self, *order, **more)
        self.writes_aside = aside

    monkeypatch.setattr(Looks, "__init__", set_aside)
    home = tmp_path / "run"
    home.mkdir()
    (home / "explanations").symlink_to(small)
    words = [word for word in FEW if word != "callbacks=none"]
    words += ["looking.seconds=1000", "callbacks.filter_visuals=null"]
    with monkeypatch.context() as patch:
        filled(patch, small, "on_train_epoch_start", 1, first=True)
        assert main(["train", f"run_dir={home}", *words]) == 0
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    failures = json.loads((home / "summary.json").read_text())["failures"]
    failed = [line for line in failures if "failed at epoch" in line]
    assert failed and all("OSError: [Errno 28]" in line for line in failed)
    for line in failed:
        # when it happened, and in the closing lines
        assert out.count(line.partition(": ")[0]) == 2
    assert sum(out.count(line) for line in failed) == 1  # the others failed for the same reason
    assert all(file.stat().st_size for file in small.rglob("*.jpg"))


@pytest.mark.parametrize("left", [0, pytest.param(4096 * 3, marks=pytest.mark.slow)])
def test_a_run_that_finds_no_room_to_begin(small, capsys, left):
    fill(small, left)
    assert main(["train", f"run_dir={small / 'run'}", *FEW]) == 2
    line = one_line(capsys)
    assert "room" in line or "space" in line
    assert not list(small.rglob("*.tmp"))
    (small / "ballast").unlink()
    assert main(["train", f"run_dir={small / 'run'}", *FEW, "overwrite=true"]) == 0


@pytest.mark.parametrize("data", ["shapes", pytest.param("image_folder", marks=pytest.mark.slow)])
def test_a_cache_of_pictures_that_finds_no_room(small, folder_of_two, capsys, monkeypatch, data):
    monkeypatch.setenv("CONVLENS_CACHE", str(small))
    fill(small, 4096 * 4)
    words = [word for word in FEW if not word.startswith("data.")]
    words += [f"data={data}", "data.size=64"]
    words += [f"data.dir={folder_of_two}"] if data == "image_folder" else ["data.pictures=60"]
    words += [f"run_dir={small.parent / 'run'}"]
    assert main(["train", *words]) == 2
    assert "no space for the cache" in one_line(capsys)
    assert not list(small.glob("*.npy*")) and not list(small.glob("*.json*"))
    (small / "ballast").unlink()
    assert main(["train", *words]) == 0
