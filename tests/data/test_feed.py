"""Batches that a thread prepares ahead: the same bits, in order, and no thread is left over."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from convlens.data import feed as feeds
from convlens.data.feed import (
    Batch,
    Feed,
    Gather,
    GpuStream,
    Pending,
    Stream,
    prefetch,
)


def rows_of(number: int) -> torch.Tensor:
    """Batch ``number``; every fourth is smaller."""
    return torch.arange(2 if number % 4 == 3 else 5) + 100 * number


def numbered(count: int, gathered: list[int] | None = None) -> Iterator[tuple[int, Gather]]:
    """``count`` batches, whose numbers appear in ``gathered`` when they are gathered."""

    def gather(number, allocate) -> Batch:
        if gathered is not None:
            gathered.append(number)
        values = rows_of(number)
        if number % 2 or allocate is None:  # small tensors may come in memory of their own
            return {"row": values, "cut": 7}
        return {"row": allocate("row", tuple(values.shape), values.dtype).copy_(values), "cut": 7}

    return ((n, lambda allocate, n=n: gather(n, allocate)) for n in range(count))


def left_over() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "convlens-feed"]


def double(batch: Batch) -> Batch:
    return batch | {"row": 2 * batch["row"]}


class LateStream(Stream):
    """A device that copies as late as it may: when the host waits for it, or at the very end."""

    def __init__(self, waits: bool = True):
        self.waits, self.copies, self.memory = waits, deque(), []
        self.lock = threading.Lock()

    def allocate(self, size: int) -> torch.Tensor:
        self.memory.append(super().allocate(size))
        return self.memory[-1]

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        there = torch.full_like(tensor, -1)
        self.copies.append((there, tensor))
        return there

    def launch(self, work) -> Pending:
        pending = Pending(work())
        end = self.copies[-1] if self.copies else None
        pending.wait = lambda: self.catch_up(end) if self.waits else None
        return pending

    def catch_up(self, end=None) -> None:
        """Make the copies up to ``end``, or all."""
        with self.lock:
            while self.copies and (end is None or any(each is end for each in self.copies)):
                there, here = self.copies.popleft()
                there.copy_(here)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [0, 1, 3, 17])
def test_batches_come_in_order_and_finished(count, depth):
    found = list(prefetch(Stream(), numbered(count), double, depth))
    assert [number for number, _ in found] == list(range(count))
    for number, batch in found:
        assert torch.equal(batch["row"], 2 * rows_of(number)) and batch["cut"] == 7
    assert not left_over()


@pytest.mark.parametrize("depth", [1, 3])
def test_host_memory_is_not_overwritten_before_its_copy(depth):
    """No batch is looked at before the last one is prepared, as on a device that lags behind."""
    stream = LateStream()
    found = [batch["row"] for _, batch in prefetch(stream, numbered(40), lambda b: b, depth)]
    stream.catch_up()
    assert all(torch.equal(rows, rows_of(number)) for number, rows in enumerate(found))
    assert len(stream.memory) <= depth  # reused


def test_the_stub_would_show_overwritten_memory():
    stream = LateStream(waits=False)
    found = [batch["row"] for _, batch in prefetch(stream, numbered(40), lambda b: b, 3)]
    stream.catch_up()
    assert not all(torch.equal(rows, rows_of(number)) for number, rows in enumerate(found))


def test_no_more_than_the_depth_is_prepared():
    gathered: list[int] = []
    ahead = threading.Semaphore(0)

    class Counting(Stream):
        def launch(self, work):
            ahead.release()
            return super().launch(work)

    batches = prefetch(Counting(), numbered(20, gathered), double, depth=3)
    assert not gathered and not left_over()  # nothing happens before the first batch is wanted
    next(batches)
    for _ in range(4):  # that one, and three more
        assert ahead.acquire(timeout=60)
    assert not ahead.acquire(timeout=0.2)
    assert gathered == [0, 1, 2, 3]
    batches.close()
    assert not left_over()


@pytest.mark.parametrize("place", ["gather", "finish", "order"])
def test_an_exception_arrives_with_its_traceback_after_the_batches_before_it(place):
    def broken_part(*_):
        raise OSError("the disk is gone")

    def order():
        for number, gather in numbered(3):
            if number == 2 and place == "order":
                broken_part()
            yield number, broken_part if number == 2 and place == "gather" else gather

    def finish(batch):
        return broken_part() if batch["row"][0] == 200 and place == "finish" else batch

    found = []
    with pytest.raises(OSError, match="the disk is gone") as caught:
        for number, _ in prefetch(Stream(), order(), finish):
            found.append(number)
    assert found == [0, 1]
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[-1] == "broken_part" and "work" in names
    assert not left_over()


@pytest.mark.parametrize("end", ["close", "drop", "raise", "interrupt"])
def test_a_consumer_that_stops_ends_the_thread(end):
    batches = prefetch(Stream(), numbered(1000), double)
    next(batches)
    assert left_over()
    if end == "close":
        batches.close()
    elif end == "drop":
        del batches
    else:
        with pytest.raises((ValueError, KeyboardInterrupt)):
            batches.throw(ValueError if end == "raise" else KeyboardInterrupt)
    assert not left_over()


# a shell that starts the tests in the background lets them ignore SIGINT
CTRL_C = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.raise_signal(signal.SIGINT)
"""


@pytest.mark.parametrize(
    "end",
    ["", *(pytest.param(end, marks=pytest.mark.slow) for end in ("raise SystemExit(3)", CTRL_C))],
)
def test_python_ends_although_batches_are_left(end):
    script = f"""
from convlens.data.feed import Stream, prefetch

def gather(allocate):
    return {{}}

batches = prefetch(Stream(), ((n, gather) for n in range(10**9)), lambda batch: batch)
next(batches)
{end}
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=120)
    assert done.returncode == (3 if "Exit" in end else -2 if end else 0)
    assert b"Fatal" not in done.stderr and (end or not done.stderr)


def test_global_generators_are_not_touched():
    def states():
        return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()

    before = states()
    list(prefetch(Stream(), numbered(5), double))
    assert states() == before


def test_without_a_stream_only_files_larger_than_memory_are_read_ahead(monkeypatch):
    monkeypatch.setattr(feeds, "read_total_memory", lambda: 1000)
    for size, ahead in ((1000, False), (1001, True)):
        batches = Feed().run(numbered(9), double, size)
        _, batch = next(batches)
        assert bool(left_over()) == ahead
        found = [batch, *(batch for _, batch in batches)]
        want = [double(gather(None)) for _, gather in numbered(9)]
        for one, other in zip(found, want, strict=True):
            assert torch.equal(one["row"], other["row"])
    assert not left_over()


class FakeGpu:
    """Stands for ``torch.cuda``: writes down what is done on which stream."""

    def __init__(self):
        self.log: list[str] = []
        self.current = "training"

    def Stream(self, device):
        return FakeQueue(self, "side")

    def Event(self, blocking):
        assert blocking  # the thread sleeps while it waits
        return SimpleNamespace(synchronize=lambda: self.log.append("the host waits"))

    def current_stream(self, device):
        return FakeQueue(self, self.current)

    @contextmanager
    def stream(self, queue):
        self.current = queue.name
        yield
        self.current = "training"

    @contextmanager
    def device(self, device):
        yield


class FakeQueue:
    """A stream of the fake."""

    def __init__(self, gpu: FakeGpu, name: str):
        self.gpu, self.name = gpu, name

    def record_event(self, event):
        self.gpu.log.append(f"event on {self.name}")
        return event

    def wait_event(self, event) -> None:
        self.gpu.log.append(f"{self.name} waits")


def test_a_gpu_works_on_its_own_stream_and_only_the_training_stream_waits(monkeypatch):
    gpu = FakeGpu()
    monkeypatch.setattr(torch, "cuda", gpu)
    kept = []
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda t, s: kept.append((t.data_ptr(), s.name))
    )
    stream = GpuStream(torch.device("cpu"))
    there = torch.zeros(2), torch.ones(3)

    def work() -> Batch:
        gpu.log.append(f"work on {gpu.current}")
        return {"image": there[0], "label": there[1], "cut": 3}

    pending = stream.launch(work)
    assert gpu.log == ["work on side", "event on side"]  # nobody has waited
    assert pending.take() == {"image": there[0], "label": there[1], "cut": 3}
    assert gpu.log[2:] == ["training waits"]
    assert kept == [(tensor.data_ptr(), "training") for tensor in there]
    pending.wait()
    assert gpu.log[3:] == ["the host waits"]
