"""Libraries are imported without garbage collection, which works as before afterwards."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from contextlib import nullcontext

import pytest

from convlens.core import progress
from convlens.core.loading import loading_libraries
from support.looks import FakeClock


@pytest.fixture(params=[True, False], ids=["collecting", "not collecting"])
def collects(request):
    """Whether the collector is at work when libraries are loaded."""
    before = gc.isenabled()
    (gc.enable if request.param else gc.disable)()
    yield request.param
    (gc.enable if before else gc.disable)()


@pytest.mark.parametrize("error", [None, ImportError])
def test_the_collector_rests_while_libraries_are_loaded(collects, error):
    with pytest.raises(error) if error else nullcontext(), loading_libraries():
        assert not gc.isenabled()
        if error:
            raise error
    assert gc.isenabled() == collects


def test_what_was_imported_is_not_traversed_again(monkeypatch):
    new = [[] for _ in range(10_000)]  # to be frozen, or not
    frozen = gc.get_freeze_count()
    with loading_libraries():
        pass
    assert gc.get_freeze_count() <= frozen  # nothing was imported; what was frozen may be released
    with loading_libraries():
        monkeypatch.setitem(sys.modules, "convlens_test", gc)
    assert gc.get_freeze_count() > frozen + len(new) / 2
    gc.unfreeze()


def test_at_the_end_of_the_process_everything_is_cleaned_up():
    """Otherwise nanobind, which triton uses, prints a list of leaks at the end of a run."""
    code = (
        "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count()))\n"
        "from convlens.core.loading import loading_libraries\n"
        "with loading_libraries():\n    import wave\n"
        "print(gc.get_freeze_count() > 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["True", "0"], done.stderr


def test_loading_is_shown_after_a_second(monkeypatch, capsys):
    monkeypatch.setattr(progress, "TICK", 0.01)
    clock, shown = FakeClock(monkeypatch), ""
    with loading_libraries():
        clock.spend(1.1)
        for _ in range(3000):  # until the thread that shows it has had its turn
            if shown := capsys.readouterr().err:
                break
            time.sleep(0.01)
    assert shown == "loading the libraries\n"
