"""What differs between systems: the same results here, and on a pretended Windows."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import subprocess
import sys
import threading
import time

import pytest

from convlens.core import system
from convlens.core.files import open_atomic
from convlens.core.locks import is_locked, is_same_file, take_lock, wait_for_lock
from support.windows import BREAK, Msvcrt, pretend


@pytest.fixture
def windows(monkeypatch) -> Msvcrt:
    """A pretended Windows for this process: its locks."""
    pretend(lambda owner, name, value: monkeypatch.setattr(owner, name, value, raising=False))
    locks = Msvcrt()
    monkeypatch.setitem(sys.modules, "msvcrt", locks)
    monkeypatch.setattr(system, "WINDOWS", True)
    for name in ("pread", "pwrite", "sysconf", "killpg"):
        monkeypatch.delattr(os, name)
    return locks


@pytest.fixture(params=["here", "windows"])
def either(request):
    """Run a test twice: on this system, and on a pretended Windows."""
    if request.param == "windows":
        request.getfixturevalue("windows")


# ------------------------------------------------------------------------------------------ files


def test_bytes_are_read_and_written_at_their_places_from_many_threads(either, tmp_path):
    fd = system.open_file(tmp_path / "x", os.O_RDWR | os.O_CREAT)
    blocks = [bytes([number]) * 1000 for number in range(64)]

    def write(number: int) -> None:
        for _ in range(20):
            assert system.write_at(fd, memoryview(blocks[number]), 1000 * number) == 1000
            assert system.read_at(fd, 1000, 1000 * number) == blocks[number]

    threads = [threading.Thread(target=write, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.close(fd)
    assert (tmp_path / "x").read_bytes() == b"".join(blocks)


def test_opening_creates_only_if_asked(either, tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        system.open_file(tmp_path / "none", os.O_RDONLY)
    (tmp_path / "kept").write_bytes(b"one\ntwo\r\n")
    fd = system.open_file(os.fsencode(tmp_path / "kept"), os.O_RDWR | os.O_CREAT)
    assert system.read_at(fd, 100, 0) == b"one\ntwo\r\n"
    os.close(fd)


def test_an_open_file_can_be_renamed_and_removed(either, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    fd = system.open_file(one, os.O_RDWR | os.O_CREAT)
    system.replace(one, other)
    assert is_same_file(fd, other) and not one.exists()
    other.unlink()
    assert not is_same_file(fd, other)
    os.close(fd)


def test_windows_waits_for_a_program_that_has_the_file_open(windows, tmp_path):
    target = tmp_path / "metrics.csv"
    target.write_text("old")
    reader = open(target)  # noqa: SIM115
    threading.Timer(0.3, reader.close).start()
    with open_atomic(target) as file:
        file.write("new")
    assert target.read_text() == "new" and os.listdir(tmp_path) == ["metrics.csv"]


def test_windows_gives_up_on_a_file_that_stays_open(windows, tmp_path, monkeypatch):
    monkeypatch.setattr(system, "_PATIENCE", 0.1)
    target = tmp_path / "metrics.csv"
    target.write_text("old")
    with open(target), pytest.raises(PermissionError), open_atomic(target) as file:
        file.write("new")
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["metrics.csv"]


def test_a_file_that_may_not_be_replaced_is_reported_at_once_elsewhere(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(time, "sleep", None)  # calling it would fail
    with pytest.raises(PermissionError):
        system.replace(tmp_path / "a", tmp_path / "b")


def test_a_folder_replaces_nothing_or_an_empty_one(either, tmp_path):
    for there in (False, True):
        source, target = tmp_path / f"from{there}", tmp_path / f"to{there}"
        source.mkdir()
        (source / "file").touch()
        if there:
            target.mkdir()
        system.replace_folder(source, target)
        assert os.listdir(target) == ["file"] and not source.exists()
    (tmp_path / "last").mkdir()
    with pytest.raises(OSError):
        system.replace_folder(tmp_path / "last", target)
    assert os.listdir(target) == ["file"]


def test_text_has_the_same_bytes_on_every_system(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "linesep", "\r\n")
    with open_atomic(tmp_path / "x") as file:
        file.write("ä\nb\n")
    assert (tmp_path / "x").read_bytes() == b"\xc3\xa4\nb\n"


# ------------------------------------------------------------------------------------------ locks


def test_locks(either, tmp_path, capsys):
    fds = [system.open_file(tmp_path / "x", os.O_RDWR | os.O_CREAT) for _ in range(4)]
    assert not is_locked(fds[3]) and not is_locked(fds[2])
    os.close(fds.pop())
    os.close(fds.pop())  # a test may keep others from locking until then
    assert take_lock(fds[0]) is True and take_lock(fds[1]) is False and is_locked(fds[1])
    threading.Timer(0.2, os.close, [fds[0]]).start()
    assert wait_for_lock(fds[1], "building")
    assert "waiting for another process that is building" in capsys.readouterr().err
    os.close(fds[1])


def test_a_locked_file_can_still_be_read_on_windows(windows, tmp_path):
    """Windows refuses to read a locked byte; the locked one is beyond the end of the file."""
    file = tmp_path / "x"
    file.write_text("process 1 on HOST")
    fd = system.open_file(file, os.O_RDWR)
    assert take_lock(fd) and min(windows.places) > 100 * file.stat().st_size
    os.close(fd)


def test_a_test_of_a_lock_leaves_it_free_on_windows(windows, tmp_path):
    one, other = (system.open_file(tmp_path / "x", os.O_RDWR | os.O_CREAT) for _ in range(2))
    assert not is_locked(one) and take_lock(other) is True
    os.close(one)
    os.close(other)


def test_a_failing_disk_is_not_a_lock_of_another(windows, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(windows, "locking", fail)
    fd = system.open_file(tmp_path / "x", os.O_RDWR | os.O_CREAT)
    with pytest.raises(OSError, match="Input/output"):
        take_lock(fd)
    os.close(fd)


# -------------------------------------------------------------------------- processes and signals

SLEEPING = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell may start the tests without Ctrl-C
open(sys.argv[1], "w").close()
time.sleep(60)
"""


def start_sleeping(mark) -> subprocess.Popen:
    child = system.start_group([sys.executable, "-c", SLEEPING, str(mark)])
    while not mark.exists():
        assert child.poll() is None
        time.sleep(0.02)
    return child


def test_a_group_is_interrupted(tmp_path):
    child = start_sleeping(tmp_path / "ready")
    assert os.getpgid(child.pid) == child.pid
    system.interrupt_group(child)
    assert system.wait_for(child) == -signal.SIGINT
    system.interrupt_group(child)  # it has ended


def test_a_group_is_interrupted_on_windows(tmp_path, windows):
    child = start_sleeping(tmp_path / "ready")
    system.interrupt_group(child)
    assert system.wait_for(child) == -BREAK


def test_waiting_for_a_process_notices_ctrl_c_on_windows(windows, monkeypatch):
    """A wait without an end does not, there."""
    waits = []

    class Child:
        def wait(self, timeout=None):
            waits.append(timeout)
            if len(waits) < 3:
                raise subprocess.TimeoutExpired("x", timeout)
            return 7

    assert system.wait_for(Child()) == 7
    assert len(waits) == 3 and all(0 < each <= 1 for each in waits)


def test_a_stop_is_passed_on_but_never_kills(either):
    sent = []

    class Child:
        def send_signal(self, number):
            sent.append(number)

    system.pass_on_stop(Child())
    assert sent == ([] if system.WINDOWS else [signal.SIGTERM])


@pytest.mark.parametrize("is_windows", [False, True])
def test_a_process_notices_that_its_parent_is_gone(is_windows, tmp_path):
    if is_windows:
        pytest.importorskip("psutil", reason="Windows waits for a process with psutil")
    code = (
        "import os, sys; from convlens.core import system\n"
        f"system.WINDOWS = {is_windows}; parent = os.getppid()\n"
        "print('ready', flush=True); system.wait_for_parent(parent)\n"
        "open(sys.argv[1], 'w').close()"
    )
    mark = tmp_path / "alone"
    parent = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', *sys.argv[1:]], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
    )
    subprocess.run([sys.executable, "-c", parent, code, mark], check=True, timeout=60)
    deadline = time.monotonic() + 30
    while not mark.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_every_signal_of_a_tuple_exists_here():
    assert system.STOPS == (signal.SIGTERM, signal.SIGINT)
    assert system.CLOSINGS == (signal.SIGTERM, signal.SIGHUP)
    assert system.ENDINGS == (signal.SIGTERM,)


# --------------------------------------------------------------------- machine and command lines


def test_the_machine_is_the_same_by_psutil(monkeypatch):
    psutil = pytest.importorskip("psutil", reason="Windows reads its memory with psutil")
    here = system.read_total_memory()
    monkeypatch.setattr(system, "WINDOWS", True)
    assert system.read_total_memory() == psutil.virtual_memory().total
    assert here == pytest.approx(psutil.virtual_memory().total, rel=1e-3)
    assert system.count_cores() == len(psutil.Process().cpu_affinity())


def test_cores_and_processor_where_linux_is_not(monkeypatch, tmp_path):
    assert system.name_processor()
    monkeypatch.delattr(os, "sched_getaffinity")
    assert system.count_cores() == os.cpu_count()

    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(system.Path, "read_text", missing)
    assert system.name_processor()


@pytest.mark.parametrize(
    "text", ["", "a b", "last 'my run/1' \"x y\"", r"a\ b", "outputs/a#1 'it''s'", "*.jpg"]
)
def test_words_are_split_as_a_shell_splits_them(text):
    assert system.split_words(text) == shlex.split(text)


def test_words_with_backslashes_are_paths_on_windows(windows):
    text = r'last outputs\scratch\A "C:\my runs\*" ' + r"'\\server\share\x'"
    assert system.split_words(text) == [
        "last", r"outputs\scratch\A", r"C:\my runs\*", r"\\server\share\x",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="closing quotation"):
        system.split_words('"a')


@pytest.mark.parametrize("word", ["run=outputs/a-1", "run=my runs/ü", "x='a'", "$HOME", ""])
def test_quoted_words_reach_a_command_unchanged(word):
    typed = f"printf %s {system.quote_word(word)}"
    assert subprocess.run(["sh", "-c", typed], capture_output=True, text=True).stdout == word


def test_words_are_quoted_for_windows(windows):
    assert system.quote_word(r"run=outputs\a") == r"run=outputs\a"
    assert system.quote_word(r"run=my runs\a") == r'"run=my runs\a"'
