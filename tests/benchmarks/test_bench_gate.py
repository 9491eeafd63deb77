"""The gate of the speed benchmark: both of its threads, driven through every order they can take.

A side that trains on while the peer is timed takes half the machine from it. Whether it does is a
matter of which thread comes first, so a test that lets them run proves nothing: here each line of
the gate is a place where the other thread may go on instead, and all the orders are gone through.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import gate  # noqa: E402

PATIENCE = 10.0  # seconds without a turn, after which a thread is lost: a fault of this test


class Orders:
    """Runs threads one line at a time, in one order after the other until all have been run.

    An order that comes to a state in which an earlier one has been goes no further: from there on
    all ways have been taken already.
    """

    def __init__(self):
        self._choices: list[list[int]] = []  # of this order: [taken, how many there were]
        self._states: set[tuple] = set()

    def explore(self, scene: Callable[[Stage], tuple[list[Callable[[], None]], Callable]]) -> int:
        """Run ``scene`` (bodies, and what they share) in every order; returns how many states."""
        while True:
            stage = Stage(self._choices, self._states)
            stage.run(*scene(stage))
            while self._choices and self._choices[-1][0] + 1 == self._choices[-1][1]:
                self._choices.pop()
            if not self._choices:
                return len(self._states)
            self._choices[-1][0] += 1


class Stage:
    """One order: of the threads that can go on, always exactly one does, up to its next line."""

    def __init__(self, choices: list[list[int]], states: set[tuple]):
        self._choices, self._states, self._depth = choices, states, 0
        self._semaphores: list[list[int]] = []
        self._places: dict[int, tuple] = {}  # thread -> the lines at which it stands
        self._turn = threading.Condition()
        self._current: int | None = None
        self._waits: dict[int, Callable[[], bool]] = {}  # thread -> whether it can go on
        self._of = threading.local()
        self._closing = False

    def semaphore(self, value: int) -> SimpleNamespace:
        """A semaphore that hands the turn on instead of blocking."""
        held = [value]
        self._semaphores.append(held)

        def acquire() -> None:
            self.pause(lambda: held[0] > 0)
            held[0] -= 1

        def release() -> None:
            held[0] += 1

        return SimpleNamespace(acquire=acquire, release=release)

    def pause(self, ready: Callable[[], bool] = lambda: True) -> None:
        """Hand the turn back; go on when it comes again, which it does only once ``ready``."""
        me = self._of.number
        with self._turn:
            self._waits[me], self._places[me] = ready, lines()
            self._current = None
            self._turn.notify_all()
            if not self._turn.wait_for(lambda: self._current == me or self._closing, PATIENCE):
                raise AssertionError("no turn came")
            if self._closing:
                raise SystemExit  # it waits for something that never comes

    def run(self, bodies: list[Callable[[], None]], shared: Callable[[], tuple]) -> None:
        """Run the bodies to their ends, or to where none can go on or nothing new can come."""
        errors: list[BaseException] = []

        def live(number: int, body: Callable[[], None]) -> None:
            self._of.number = number

            def trace(frame, event, _):
                if frame.f_code.co_filename != gate.__file__:
                    return None
                if event == "line":
                    self.pause()
                return trace

            try:
                self.pause()
                sys.settrace(trace)
                body()
            except SystemExit:
                pass
            except BaseException as error:
                errors.append(error)
            finally:
                sys.settrace(None)
                with self._turn:
                    self._waits.pop(number, None)
                    self._places[number] = ()
                    self._current = None
                    self._turn.notify_all()

        threads = [
            threading.Thread(target=live, args=pair, daemon=True) for pair in enumerate(bodies)
        ]
        self._current = -1
        for number, thread in enumerate(threads):
            thread.start()
            with self._turn:  # each comes to its first pause before the next one starts
                assert self._turn.wait_for(lambda n=number: n in self._waits, PATIENCE)
        while able := self._able():
            if self._depth == len(self._choices):
                state = (*shared(), *map(tuple, self._semaphores), *sorted(self._places.items()))
                if state in self._states:
                    break
                self._states.add(state)
                self._choices.append([0, len(able)])
            taken, ways = self._choices[self._depth]
            assert ways == len(able), "the same choices led elsewhere: the scene does not repeat"
            self._depth += 1
            self._go(able[taken])
        with self._turn:
            self._closing = True
            self._turn.notify_all()
        for thread in threads:
            thread.join(PATIENCE)
        if errors:
            raise errors[0]

    def _able(self) -> list[int]:
        with self._turn:
            assert self._turn.wait_for(lambda: self._current in (None, -1), PATIENCE)
            return sorted(number for number, ready in self._waits.items() if ready())

    def _go(self, number: int) -> None:
        with self._turn:
            self._current = number
            self._turn.notify_all()


def lines() -> tuple:
    """Where the calling thread stands: a line for each function it is in."""
    frame, found = sys._getframe(1), []
    while frame is not None:
        found.append((frame.f_code.co_name, frame.f_lineno))
        frame = frame.f_back
    return tuple(found)


def explore(monkeypatch, kind: type, asked: list[int]) -> tuple[int, set[str]]:
    """All orders of a loop of turns at a gate and of a thread that asks.

    Returns how many states there are, and what was wrong in any of them.
    """
    wrong: set[str] = set()

    def scene(stage: Stage) -> tuple[list[Callable[[], None]], Callable[[], tuple]]:
        monkeypatch.setattr(gate.threading, "Semaphore", stage.semaphore)
        held = kind()
        measuring, turns, places = [False], [0], [0]

        def loop() -> None:
            while turns[0] <= sum(asked):  # one more than asked for is wrong already
                held.pass_by()
                if not measuring[0]:
                    wrong.add("a turn while nobody measures")
                    raise SystemExit
                turns[0] += 1
                stage.pause()  # the turn itself, which takes its time
                if not measuring[0]:
                    wrong.add("a turn that outlasts its measurement")

        def measure() -> None:
            for places[0], count in enumerate(asked):
                before, measuring[0] = turns[0], True
                held.go(count)
                measuring[0] = False
                if turns[0] - before != count:
                    wrong.add(f"{turns[0] - before} turns for {count}")
                stage.pause()  # the peer's round

        def shared() -> tuple:
            plain = sorted((k, v) for k, v in vars(held).items() if isinstance(v, int))
            return (*plain, measuring[0], turns[0], places[0])

        return [loop, measure], shared

    return Orders().explore(scene), wrong


@pytest.mark.parametrize("asked", [[1], [2, 1], [1, 2, 1]])
def test_between_two_measurements_the_loop_stands_in_every_order(monkeypatch, asked):
    states, wrong = explore(monkeypatch, gate.Gate, asked)
    assert not wrong
    assert states > 30 * len(asked)  # the two threads really met in many ways


def test_the_explorer_finds_the_place_that_was_lost(monkeypatch):
    """The gate as it was: asking did not wait until the loop stood. The tests above can fail."""
    source = (
        "import threading\n"
        "class Gate:\n"
        "    def __init__(self):\n"
        "        self._left = 0\n"
        "        self._asked = threading.Semaphore(0)\n"
        "        self._done = threading.Semaphore(0)\n"
        "        self._begun = False\n"
        "    def go(self, count):\n"
        "        self._left = count\n"
        "        self._asked.release()\n"
        "        self._done.acquire()\n"
        "    def pass_by(self):\n"
        "        if self._begun:\n"
        "            self._left -= 1\n"
        "            if not self._left:\n"
        "                self._done.release()\n"
        "        self._begun = True\n"
        "        if not self._left:\n"
        "            self._asked.acquire()\n"
    )
    old: dict = {}
    exec(compile(source, gate.__file__, "exec"), old)
    _, wrong = explore(monkeypatch, old["Gate"], [1, 1])
    assert "a turn while nobody measures" in wrong


def test_no_turns_are_refused():
    with pytest.raises(ValueError, match="at least 1, not 0"):
        gate.Gate().go(0)


def test_real_threads_stand_while_nothing_is_asked():
    held, turns = gate.Gate(), [0]

    def loop() -> None:
        while True:
            held.pass_by()
            turns[0] += 1

    threading.Thread(target=loop, daemon=True).start()
    for expected, count in ((3, 3), (4, 1), (504, 500)):
        held.go(count)
        assert turns[0] == expected
