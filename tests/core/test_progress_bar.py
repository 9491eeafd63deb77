"""Long work shows a bar on a terminal and a line elsewhere; short work shows nothing."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys

import pytest
from rich.console import Console
from rich.progress import Progress

from convlens.core import progress
from convlens.core.progress import progress_bar, share_display
from support.looks import FakeClock

WORK = (
    "from convlens.core import progress\n"
    "progress.SHOWN_AFTER = {after}\n"
    "with progress.progress_bar('hashing', 3, {how}) as work:\n"
    "    [work.advance() for _ in range(3)]\n"
)


@pytest.fixture
def clock(monkeypatch):
    return FakeClock(monkeypatch)


def test_work_of_less_than_two_seconds_shows_nothing(clock, capsys):
    with progress_bar("hashing", 3) as work:
        clock.spend(1.9)
        work.advance(3)
    assert capsys.readouterr() == ("", "")


def test_longer_work_is_one_line_with_its_name_and_count(clock, capsys):
    with progress_bar("looking before training") as work:
        work.begin("Grad-CAM", 8)
        clock.spend(1.9)
        work.advance(8)
        work.begin("filters", 6)
        clock.spend(0.2)
        work.advance(3)
        clock.spend(50.0)
        work.advance()
    assert capsys.readouterr() == ("", "looking before training: filters 3/6\n")


def test_work_of_minutes_gets_a_line_each_minute(clock, capsys):
    with progress_bar("hashing", 9) as work:
        for _ in range(9):
            clock.spend(20.0)
            work.advance()
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["hashing 1/9", "hashing 4/9", "hashing 7/9"]  # after 2, 62 and 122 seconds


def test_work_without_pieces_is_shown_while_it_lasts(monkeypatch, capsys):
    """Nobody reports how far it is, so only the clock can show it."""
    monkeypatch.setattr(progress, "SHOWN_AFTER", 0.0)
    monkeypatch.setattr(progress, "TICK", 0.001)
    with progress_bar("loading") as work:
        assert work._ended.wait(0.5) is False
        assert capsys.readouterr().err == "loading\n"


@pytest.mark.parametrize("variable", ["LOCAL_RANK", "RANK"])
def test_only_the_first_of_several_processes_shows_it(clock, capsys, monkeypatch, variable):
    seen = []
    for number in ("0", "1"):
        monkeypatch.setenv(variable, number)
        with progress_bar("testing", 2) as work:
            clock.spend(3.0)
            work.advance()
        seen.append(capsys.readouterr().err)
    assert seen == ["testing 1/2\n", ""]


def test_a_terminal_has_one_display_which_nested_work_joins(clock, monkeypatch):
    """Lightning's display finds its bars by their places: they are hidden, never removed."""
    monkeypatch.setattr(progress, "is_on_terminal", lambda: True)
    display = Progress(console=Console(file=io.StringIO(), force_terminal=True))
    share_display(display, float("inf"))
    try:
        with progress_bar("looking after epoch 3") as work:
            clock.spend(3.0)
            work.begin("filters", 6)
            work.advance(2)
            work.begin("scores")
            shown = [(bar.description, bar.total, bar.visible) for bar in display.tasks]
    finally:
        share_display(None)
    assert shown[0] == ("looking after epoch 3: filters 2/6", 6, False)
    assert shown[1] == ("looking after epoch 3: scores", float("inf"), True)
    assert [bar.visible for bar in display.tasks] == [False, False]


@pytest.mark.parametrize("colour", [{}, {"FORCE_COLOR": "1"}])
def test_no_control_characters_where_stderr_is_no_terminal(colour):
    done = subprocess.run(
        [sys.executable, "-c", WORK.format(how="visible=True", after=0)], capture_output=True,
        check=True, env={**os.environ, **colour},
    )  # fmt: skip
    assert (done.stdout, done.stderr.decode()) == (b"", f"hashing 1/3{os.linesep}")


@pytest.mark.parametrize(
    ("how", "after", "seen"),
    [
        ("visible=True", 0, b"hashing 3/3"),
        ("in_bytes=True", 0, b"3/3 bytes"),
        ("visible=False", 0, b""),
        ("visible=True", 100, b""),
    ],
)
def test_a_bar_on_a_terminal_unless_nobody_waits(how, after, seen):
    ours, theirs = os.openpty()
    subprocess.run(
        [sys.executable, "-c", WORK.format(how=how, after=after)], stderr=theirs, check=True,
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
