"""Rounds of the benchmarks: disturbed ones are repeated, and a side waits until it is let go."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import rounds as protocol  # noqa: E402
import throughput  # noqa: E402


def taken(count: int, seen: list[list]) -> tuple[list[dict], list[int]]:
    """What ``take_rounds`` gives where rounds see ``seen``, and the numbers it asked for."""
    asked, left = [], iter(seen)

    def measure(number: int) -> tuple[dict, list]:
        asked.append(number)
        return {"number": number}, next(left)

    return protocol.take_rounds(count, measure), asked


def test_a_disturbed_round_is_discarded_and_repeated_under_its_number(capsys):
    found, asked = taken(2, [[0.02, 0.1], [0.0, 0.95], [0.11, 0.0], [0.05, 0.01]])
    assert asked == [0, 1, 1, 1]  # whoever goes first goes first again
    assert found == [{"number": 0, "others": 0.1}, {"number": 1, "others": 0.05}]
    assert capsys.readouterr().err.count("round 2 discarded: something else used") == 2


def test_a_machine_that_stays_busy_fails_the_benchmark():
    with pytest.raises(SystemExit, match=r"used 0.2 to 0.9 cores in 5 rounds in succession"):
        taken(1, [[0.2], [0.9], [0.3], [0.4], [0.2]])
    # disturbances with quiet rounds between them are no busy machine
    found, _ = taken(3, [[0.2]] * 4 + [[0.0]] + [[0.2]] * 4 + [[0.0]] + [[0.2]] * 4 + [[0.0]])
    assert len(found) == 3


def test_a_system_that_does_not_tell_takes_every_round():
    found, _ = taken(2, [[None, 3.0], [None, None]])
    assert [line["others"] for line in found] == [None, None]


@pytest.mark.parametrize(
    ("machine", "own", "others"),
    [
        ("cpu 150 0 50 900 9 0 0 0", "90 10 0 0", 1.0),  # 200 ticks more, 100 of them its own
        ("cpu 100 0 50 900 9 0 0 0", "90 10 30 20", 0.0),  # its children that have ended count
        ("cpu 50 20 0 900 9 10 10 10", "0 0 0 0", 1.0),  # nice, interrupts, what the host took
        ("cpu 100 0 0 0 99 0 0 0", "100 0 0 0", 0.0),  # idle and waiting are nobody's
    ],
)
def test_others_are_what_neither_the_process_nor_idling_took(monkeypatch, machine, own, others):
    texts = {"/proc/stat": "cpu 0 0 0 0 0 0 0 0\n", "/proc/7/stat": f"7 (a b) S {'0 ' * 20}"}
    clock = [10.0]

    class Fake:
        def __init__(self, path):
            self.path = path

        def read_text(self):
            return texts[self.path]

    monkeypatch.setattr(protocol, "Path", Fake)
    monkeypatch.setattr(protocol.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(protocol.os, "sysconf", lambda name: 100)
    watch = protocol.Watch(7)
    clock[0] += 1.0
    texts["/proc/stat"] = f"{machine}\n"
    texts["/proc/7/stat"] = f"7 (a b) S {'0 ' * 10}{own} 0 0"
    assert watch.others() == others


SIDE = """
    import os, sys
    sys.path.insert(0, sys.argv[1])
    from rounds import claim_stdout, serve
    out = claim_stdout()
    print("what a library prints")
    told = {key: key in os.environ for key in ("OMP_NUM_THREADS", "PYTHONDONTWRITEBYTECODE")}
    serve(out, told, lambda: (20, 0.5))
"""


def side_of(tmp_path: Path) -> protocol.Side:
    script = tmp_path / "side.py"
    script.write_text(textwrap.dedent(SIDE))
    command = [sys.executable, str(script), str(BENCHMARKS)]
    return protocol.Side("side", command, protocol.available_cores(), tmp_path / "side.log")


def test_a_side_waits_for_the_end_whatever_the_number_of_rounds(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    side = side_of(tmp_path)
    assert not side.about["OMP_NUM_THREADS"] and not side.about["PYTHONDONTWRITEBYTECODE"]
    for _ in range(7):
        assert side.round()["images_per_second"] == 40.0
        assert side.process.poll() is None
    side.close()
    assert side.process.returncode == 0


def test_both_sides_take_turns_and_the_ratio_is_formed_within_a_round(capsys):
    order = []

    class Told:
        def __init__(self, name: str, speed: float):
            self.name, self.speed = name, speed

        def round(self) -> dict:
            order.append(self.name)
            return {
                "images_per_second": self.speed, "seconds": 1.0, "peak_mb": None, "others": 0.03,
            }  # fmt: skip

    sides = [Told("convlens", 30.0), Told("keras", 20.0)]
    (first, seen), (second, _) = (throughput.measure(sides, number) for number in (0, 1))
    assert order == ["convlens", "keras", "keras", "convlens"]
    assert first["ratio"] == second["ratio"] == 1.5 and seen == [0.03, 0.03]


def test_what_is_computed_here_is_watched_as_our_own(monkeypatch):
    """Not as anything else's: a run that the benchmark starts and waits for is its own work."""
    watch = protocol.Watch(os.getpid())
    if watch.others() is None:
        pytest.skip("this system does not tell what a process used")
    spent = []
    monkeypatch.setattr(protocol, "Watch", lambda pid: spent.append(pid) or watch)
    seen: list = []
    assert protocol.watched(lambda: "found", seen) == "found"
    assert spent == [os.getpid()] and len(seen) == 1
