"""A progress bar is drawn on a terminal and nowhere else."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

WORK = (
    "from convlens.core.progress import progress_bar\n"
    "with progress_bar('hashing', 3, {how}) as advance:\n"
    "    [advance(1) for _ in range(3)]\n"
)


@pytest.mark.parametrize("colour", [{}, {"FORCE_COLOR": "1"}])
def test_nothing_where_stderr_is_no_terminal(colour):
    done = subprocess.run(
        [sys.executable, "-c", WORK.format(how="visible=True")], capture_output=True, check=True,
        env={**os.environ, **colour},
    )  # fmt: skip
    assert done.stdout == done.stderr == b""


@pytest.mark.parametrize(
    ("how", "seen"),
    [("visible=True", b"3/3"), ("in_bytes=True", b"3/3 bytes"), ("visible=False", b"")],
)
def test_a_bar_on_a_terminal_unless_nobody_waits(how, seen):
    ours, theirs = os.openpty()
    subprocess.run(
        [sys.executable, "-c", WORK.format(how=how)], stderr=theirs, check=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:
        pass  # its end
    os.close(ours)
    plain = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", shown)
    assert (b"hashing" in plain) == bool(seen) and seen in plain
