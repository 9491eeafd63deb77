"""Every second of a run has a name, and together they are the elapsed time."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from convlens.cli.main import main
from convlens.core.stopwatch import Stopwatch, count_seconds, get_stopwatch, with_stopwatch
from support.tiny import TINY

QUICK = [*TINY, "looking.first_seconds=0.5", "looking.last_seconds=0.5"]


def on_the_wall(words: list[str]) -> float:
    began = time.perf_counter()
    assert main(words) == 0
    return time.perf_counter() - began


def seconds_of(home: Path) -> dict[str, float]:
    return json.loads((home / "summary.json").read_text())["seconds"]


def assert_adds_up(seconds: dict[str, float], wall: float) -> None:
    """At most 2 % have no name, and no second is counted twice."""
    parts = {name: value for name, value in seconds.items() if name != "total"}
    assert sum(parts.values()) == pytest.approx(seconds["total"], abs=1e-6)
    assert min(parts.values()) >= 0
    # reading the words comes before, the last line after
    assert wall - max(0.02 * wall, 1.0) < seconds["total"] <= wall
    assert parts["other"] <= 0.02 * seconds["total"]


def test_a_runs_seconds_add_up_also_when_it_is_resumed_and_tested_again(tmp_path, capsys):
    home = tmp_path / "run"
    wall = on_the_wall(["train", f"run_dir={home}", *QUICK, "training.epochs=2"])
    seconds, summary = seconds_of(home), json.loads((home / "summary.json").read_text())
    assert_adds_up(seconds, wall)
    for name in ("setup", "decoding", "training", "validation", "checkpoints", "explaining",
                 "test", "report"):  # fmt: skip
        assert seconds[name] > 0, name
    looked = sum(summary["explaining"].values())
    assert seconds["explaining"] == pytest.approx(looked, rel=0.05, abs=0.05)
    (line,) = re.findall(r"^[0-9.]+ s: .*", capsys.readouterr().out, re.M)
    assert line.startswith(f"{seconds['total']:.1f} s: ")
    page = (home / "report.html").read_text()
    assert " s in total: setup " in page
    assert f"test {seconds['test']:.1f} s" in page

    wall = on_the_wall(["eval", f"run={home}", "trainer=cpu"])
    tested = json.loads((home / "summary.json").read_text())["evaluations"]["best.ckpt"]["seconds"]
    assert_adds_up(tested, wall)
    assert tested["test"] > 0
    assert seconds_of(home) == seconds

    # the last epoch is there, its summary is not: the seconds until its checkpoint count on
    (home / "summary.json").unlink()
    wall = on_the_wall(["resume", f"run={home}"])
    again = seconds_of(home)
    assert again["training"] == pytest.approx(seconds["training"], rel=0.2, abs=0.3)
    assert seconds["training"] - 0.3 < again["total"] - wall < seconds["total"]


def test_a_stopwatch_counts_each_second_once(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("convlens.core.stopwatch.time.perf_counter", lambda: now[0])

    def spend(seconds: float) -> None:
        now[0] += seconds

    watch = Stopwatch("setup")
    with watch.running():
        spend(1)
        with count_seconds("test"):
            spend(2)
            with count_seconds("features"):
                spend(4)
            spend(8)
            get_stopwatch().switch_to("closing")
            spend(16)
        spend(32)
        with pytest.raises(ZeroDivisionError), count_seconds("report"):
            left_open = watch.on("never left")
            left_open.__enter__()
            spend(64)
            raise ZeroDivisionError
        spend(128)
    assert watch.seconds() == {
        "setup": 161, "test": 10, "features": 4, "closing": 16, "report": 0, "never left": 64,
    }  # fmt: skip
    spend(256)
    assert watch.seconds()["setup"] == 417
    with count_seconds("nobody"):
        spend(512)
    assert "nobody" not in watch.seconds()


def test_timed_work_uses_the_callers_stopwatch_or_one_of_its_own():
    @with_stopwatch
    def work() -> Stopwatch:
        return get_stopwatch()

    with Stopwatch().running() as watch:
        assert work() is watch
    assert work() is not watch and get_stopwatch() is not get_stopwatch()
