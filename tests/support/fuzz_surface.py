"""The parts of every fuzz target: inputs, a case with its oracle, and mutations of bytes.

A *surface* is a place that reads foreign input. Its ``case`` either accepts an input or refuses it
in one line (``UserError``); any other exception is a failure, called a *find*.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from convlens.core.errors import UserError

ACCEPTED, REFUSED = "accepted", "refused"
SECONDS = 5.0  # that one case may take, on a busy machine
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x10000)


class Find(AssertionError):
    """A failure: the input was neither refused in one line nor read correctly."""


@dataclass(frozen=True)
class Surface:
    """One place that reads foreign input.

    Attributes:
        name: name in the table.
        inputs: strategy that draws the input of a case.
        start: takes an empty folder; returns ``case(input)``, which returns ``accepted`` or
            ``refused`` and raises on a find.
        examples: number of cases in the fast test.
    """

    name: str
    inputs: st.SearchStrategy
    start: Callable[[Path], Callable[[Any], str]]
    examples: int = 100


def judged(work: Callable[[], object], seconds: float = SECONDS) -> str:
    """Run ``work`` and return whether it was accepted or refused; too slow is a find."""
    began = time.perf_counter()
    try:
        work()
        outcome = ACCEPTED
    except UserError as error:
        expect(str(error) and "\n" not in str(error), f"not one line: {str(error)!r}")
        outcome = REFUSED
    took = time.perf_counter() - began
    expect(took < seconds, f"took {took:.1f} s")
    return outcome


def expect(holds: object, message: str) -> None:
    if not holds:
        raise Find(message)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Raise a find if anything, C libraries included, writes to the screen meanwhile."""
    with open(os.devnull), contextlib.ExitStack() as after:
        read, write = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, False)
        kept = os.dup(2)
        after.callback(os.close, read)
        after.callback(os.close, kept)
        os.dup2(write, 2)
        os.close(write)
        try:
            yield
        finally:
            os.dup2(kept, 2)
        with contextlib.suppress(BlockingIOError):
            said = os.read(read, 4096)
            expect(not said, f"on the screen: {said[:200]!r}")


# ------------------------------------------------------------------------------------- mutations

_OPS = ("flip", "byte", "truncate", "insert", "remove", "splice", "number", "repeat", "zero")
mutations = st.lists(
    st.tuples(
        st.sampled_from(_OPS), st.integers(0, 2**20), st.integers(0, 255), st.integers(0, 2**12)
    ),
    min_size=1, max_size=6,
)  # fmt: skip


def mutated(content: bytes, ops: list[tuple[str, int, int, int]], other: bytes) -> bytes:
    """Return ``content`` with bytes flipped, cut, inserted, repeated, or taken from ``other``.

    Half of the changes are in the first 512 bytes, which contain headers.
    """
    data = bytearray(content)
    for op, place, value, length in ops:
        if not data:
            break
        at = place % (min(len(data), 512) if place % 2 else len(data))
        match op:
            case "flip":
                data[at] ^= 1 << value % 8
            case "byte":
                data[at] = value
            case "truncate":
                del data[at:]
            case "insert":
                data[at:at] = bytes([value]) * (length % 64)
            case "remove":
                del data[at : at + length % 64]
            case "splice":
                start = length % max(len(other), 1)
                data[at : at + length % 128] = other[start : start + length % 128]
            case "number":
                number = INTERESTING[value % len(INTERESTING)]
                order = "<" if length % 2 else ">"
                kind = "I" if length % 3 else "H"
                size = struct.calcsize(kind)
                data[at : at + size] = struct.pack(order + kind, number & (256**size - 1))
            case "repeat":
                data[at:at] = data[at : at + length % 256]
            case "zero":
                data[at : at + length % 64] = bytes(len(data[at : at + length % 64]))
    return bytes(data)


def png_checksums_right(data: bytes) -> bytes:
    """Return a PNG with correct checksums, so that changes reach the decoder."""
    out, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        if at + 12 + length > len(data):
            break
        chunk = data[at + 4 : at + 8 + length]
        out += data[at : at + 4] + chunk + struct.pack(">I", zlib.crc32(chunk))
        at += 12 + length
    return bytes(out) + data[at:]
