"""A file is written completely or not at all."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from convlens.core import files
from convlens.core.files import open_atomic, write_atomic
from convlens.rundir.lock import TEMPORARY, Hold


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_what_goes_wrong_leaves_the_old_file_and_nothing_beside_it(tmp_path, error):
    path = tmp_path / "summary.json"
    write_atomic(path, "old")
    with pytest.raises(error), open_atomic(path) as file:
        file.write("ne")
        raise error
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["summary.json"]


def test_a_rename_that_fails_leaves_nothing_either(tmp_path):
    (tmp_path / "x" / "inside").mkdir(parents=True)
    with pytest.raises(OSError):
        write_atomic(tmp_path / "x", "a file where a folder stands")
    assert os.listdir(tmp_path) == ["x"]


def test_bytes_names_and_line_ends_come_out_as_they_went_in(tmp_path):
    path = tmp_path / "table.csv"
    with open_atomic(path, "wb") as file:
        file.write(b"\x00\xff\r\n")
    assert path.read_bytes() == b"\x00\xff\r\n"
    with open_atomic(path, errors="surrogateescape", newline="") as file:
        file.write("ä\udcff\r\n")
    assert path.read_bytes() == "ä".encode() + b"\xff\r\n"


@pytest.mark.parametrize("sync", [False, True])
def test_the_disk_is_waited_for_only_where_asked(tmp_path, monkeypatch, sync):
    done = []
    monkeypatch.setattr(files.os, "fsync", lambda fd: done.append(os.fstat(fd).st_size))
    with open_atomic(tmp_path / "x", "wb", sync=sync) as file:
        file.write(b"12345")
    assert done == ([5] if sync else [])


KILLED = (
    "import os, signal, sys; from pathlib import Path\n"
    "from convlens.core.files import open_atomic\n"
    "with open_atomic(Path(sys.argv[1])) as file:\n"
    "    file.write('half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)"
)


def test_what_a_killed_process_leaves_is_swept_by_the_next_that_holds_the_folder(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for name in ("config.yaml", "metrics.csv", "checkpoints/last.ckpt"):
        write_atomic(tmp_path / name, "old")
        subprocess.run([sys.executable, "-c", KILLED, tmp_path / name], check=False)
        assert (tmp_path / name).read_text() == "old"
    left = [file for pattern in TEMPORARY for file in tmp_path.glob(pattern)]
    assert len(left) == 3
    (tmp_path / "metrics.csv.tmp").touch()  # by an older version
    with Hold() as hold:
        hold.take(tmp_path)
        assert not any(tmp_path.rglob("*.tmp"))
    assert len(list(tmp_path.rglob("*.*"))) == 4  # the three, and the lock
