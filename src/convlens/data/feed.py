"""Bring batches to the device while it computes.

One thread gathers the next batches into reused host memory, copies them to the device and finishes
them there (float, augmentation), on a stream of its own. The training's stream waits for a batch on
the device; the host waits only if the thread is late. The thread draws no random numbers and takes
the batches in the given order, so they hold the same bits as without it.
"""

from __future__ import annotations

import atexit
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor

from convlens.core.memory import read_total_memory

DEPTH = 3  # batches prepared ahead

Batch = dict[str, Any]
Allocate = Callable[[str, tuple[int, ...], torch.dtype], Tensor]
"""Returns memory on the host for the tensor ``key`` of a batch, given its shape and type."""
Gather = Callable[[Allocate | None], Batch]
"""Gathers a batch on the host; its large tensors lie in the memory that it is given, or in new."""


class Pending:
    """A batch whose work has been launched on a stream."""

    def __init__(self, batch: Batch):
        self._batch = batch

    def take(self) -> Batch:
        """Return the batch, once; the caller's later work on the device comes after its own."""
        batch, self._batch = self._batch, {}
        return batch

    def wait(self) -> None:
        """Block until the work is done, so that the host memory it read may be reused."""


class Stream:
    """Work beside the training; this one is the host's, where work is done when it is launched."""

    def allocate(self, size: int) -> Tensor:
        """Return ``size`` bytes of host memory that the device can read."""
        return torch.empty(size, dtype=torch.uint8)

    def copy(self, tensor: Tensor) -> Tensor:
        """Begin to copy a tensor of host memory to the device."""
        return tensor.clone()

    def launch(self, work: Callable[[], Batch]) -> Pending:
        """Launch work that makes a batch, such as copies; it comes after all work before."""
        return Pending(work())


class PendingOnGpu(Pending):
    """A batch that is ready when ``done`` is."""

    def __init__(self, batch: Batch, done: torch.cuda.Event, device: torch.device):
        super().__init__(batch)
        self._done, self._device = done, device

    def take(self) -> Batch:
        batch, stream = super().take(), torch.cuda.current_stream(self._device)
        stream.wait_event(self._done)
        for value in batch.values():
            if isinstance(value, Tensor):
                value.record_stream(stream)  # its memory stays until that stream has used it
        return batch

    def wait(self) -> None:
        self._done.synchronize()


class GpuStream(Stream):
    """A stream of a GPU; copies are asynchronous, from pinned memory."""

    def __init__(self, device: torch.device):
        self._device, self._stream = device, torch.cuda.Stream(device)

    def allocate(self, size: int) -> Tensor:
        with torch.cuda.device(self._device):
            return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def copy(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, non_blocking=True)

    def launch(self, work: Callable[[], Batch]) -> Pending:
        with torch.cuda.stream(self._stream):
            batch = work()
            done = self._stream.record_event(torch.cuda.Event(blocking=True))
        return PendingOnGpu(batch, done, self._device)


class Slot:
    """Host memory of one batch, reused for later ones."""

    def __init__(self, stream: Stream):
        self._stream = stream
        self._memory: dict[str, Tensor] = {}
        self._pending = Pending({})

    def allocate(self, key: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return the memory of one tensor; it grows if a batch needs more than those before."""
        size = math.prod(shape) * dtype.itemsize
        if key not in self._memory or len(self._memory[key]) < size:
            self._memory[key] = self._stream.allocate(size)
        return self._memory[key][:size].view(dtype).view(shape)

    def prepare(self, gather: Gather, finish: Callable[[Batch], Batch]) -> Pending:
        """Gather a batch, and launch its copies and what finishes it on the device."""
        self._pending.wait()
        gathered, copy = gather(self.allocate), self._stream.copy
        tensors = {k: self._hold(k, v) for k, v in gathered.items() if isinstance(v, Tensor)}

        def work() -> Batch:
            return finish(gathered | {key: copy(value) for key, value in tensors.items()})

        self._pending = self._stream.launch(work)
        return self._pending

    def _hold(self, key: str, value: Tensor) -> Tensor:
        """Return ``value`` in this slot's memory."""
        if key in self._memory and value.data_ptr() == self._memory[key].data_ptr():
            return value
        return self.allocate(key, tuple(value.shape), value.dtype).copy_(value)


@dataclass(frozen=True)
class Failure:
    """An exception of the thread."""

    error: BaseException


def prefetch(
    stream: Stream, batches: Iterator[tuple[int, Gather]], finish: Callable[[Batch], Batch],
    depth: int = DEPTH,
) -> Iterator[tuple[int, Batch]]:  # fmt: skip
    """Yield finished batches with their numbers, while a thread prepares up to ``depth`` more.

    The thread starts with the first batch. It ends with the last one, when the iterator is closed
    or dropped, and at the end of Python. Its exceptions are raised here, with its traceback.

    Args:
        stream: takes copies and ``finish``.
        batches: numbers of batches, and what gathers them; the thread iterates over them.
        finish: turns a batch on the device into what the training gets.
        depth: number of batches prepared ahead, at least 1.
    """
    free: SimpleQueue[Slot | None] = SimpleQueue()  # None: stop
    ready: SimpleQueue[tuple[int, Pending, Slot] | Failure | None] = SimpleQueue()  # None: the end
    stopped = threading.Event()

    def work() -> None:
        try:
            for number, gather in batches:
                slot = free.get()
                if slot is None or stopped.is_set():
                    return
                ready.put((number, slot.prepare(gather, finish), slot))
            ready.put(None)
        except BaseException as error:
            ready.put(Failure(error))

    # a daemon, or Python would wait for it at its end before `stop` is called
    thread = threading.Thread(target=work, name="convlens-feed", daemon=True)

    def stop() -> None:
        stopped.set()
        free.put(None)
        if thread is not threading.current_thread():  # where garbage may be collected, too
            thread.join()

    for _ in range(depth):
        free.put(Slot(stream))
    thread.start()
    atexit.register(stop)
    try:
        while item := ready.get():
            if isinstance(item, Failure):
                raise item.error
            number, pending, slot = item
            batch = pending.take()
            free.put(slot)
            yield number, batch
    finally:
        atexit.unregister(stop)
        stop()


def _keep(batch: Batch) -> Batch:
    return batch


@dataclass(frozen=True)
class Feed:
    """How batches get from the host to the training.

    With a stream, they are prepared ahead and arrive finished on the device. Without one, they are
    gathered when they are due, and Lightning moves them; only files larger than the main memory are
    read ahead, because their order is known.

    Args:
        stream: a stream of the device, or None.
        finish: what finishes a batch on the device; used with a stream.
    """

    stream: Stream | None = None
    finish: Callable[[Batch], Batch] = _keep

    def run(
        self, batches: Iterator[tuple[int, Gather]], select: Callable[[Batch], Batch], size: int
    ) -> Iterator[tuple[int, Batch]]:
        """Yield the batches and their numbers.

        Args:
            batches: numbers of batches, and what gathers them.
            select: adds the images that are on the device already.
            size: bytes on the host that the batches are gathered from.
        """
        if self.stream is not None:
            yield from prefetch(self.stream, batches, lambda batch: self.finish(select(batch)))
        elif size > read_total_memory():
            yield from prefetch(Stream(), batches, select)
        else:
            for number, gather in batches:
                yield number, select(gather(None))
