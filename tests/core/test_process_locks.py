"""Locks between processes: one holder, any number of tests, released however the holder ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading

import pytest

from convlens.core.locks import is_locked, is_same_file, take_lock, wait_for_lock


@pytest.fixture
def opened(tmp_path):
    """Open one file repeatedly; each descriptor is another holder, as in another process."""
    fds = []

    def open_again() -> int:
        fds.append(os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT))
        return fds[-1]

    yield open_again
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def test_one_holds_and_closing_gives_it_back(opened):
    first, second = opened(), opened()
    assert take_lock(first) is True and take_lock(second) is False
    os.close(first)
    assert take_lock(second) is True


def test_those_who_look_never_see_each_other(opened):
    lookers = [opened(), opened()]
    assert [is_locked(fd) for fd in lookers] == [False, False]
    holder = opened()
    assert take_lock(holder) is False  # while they look
    for fd in lookers:
        os.close(fd)
    assert take_lock(holder) is True and is_locked(opened())


def test_who_waits_says_for_what(opened, capsys):
    first, second = opened(), opened()
    assert wait_for_lock(first, "building") and not capsys.readouterr().err
    threading.Timer(0.2, os.close, [first]).start()
    assert wait_for_lock(second, "building")
    assert capsys.readouterr().err == "waiting for another process that is building\n"


def test_where_there_are_no_locks_nothing_is_held_nor_refused(opened, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    assert take_lock(opened()) is None
    assert not wait_for_lock(opened(), "building") and not is_locked(opened())


def test_a_failing_disk_is_no_file_system_without_locks(opened, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OSError, match="Input/output"):
        take_lock(opened())


def test_a_renamed_and_a_removed_file_are_not_the_open_one(tmp_path, opened):
    fd = opened()
    assert is_same_file(fd, tmp_path / "x")
    (tmp_path / "x").rename(tmp_path / "y")
    assert not is_same_file(fd, tmp_path / "x")
    (tmp_path / "x").touch()
    assert not is_same_file(fd, tmp_path / "x") and is_same_file(fd, tmp_path / "y")
