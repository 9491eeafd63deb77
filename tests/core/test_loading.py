"""Libraries are imported without garbage collection, which works as before afterwards."""

from __future__ import annotations

import gc
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
    frozen = gc.get_freeze_count()
    with loading_libraries():
        pass
    assert gc.get_freeze_count() == frozen  # nothing was imported
    with loading_libraries():
        monkeypatch.setitem(sys.modules, "convlens_test", gc)
    assert gc.get_freeze_count() > frozen
    gc.unfreeze()


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
