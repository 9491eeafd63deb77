"""`make bench` judges what looks took: seconds against the allowance, and Grad-CAM in turn."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import bench  # noqa: E402
import budget  # noqa: E402
import budget_figures as figures  # noqa: E402
import rows  # noqa: E402


def make_look(moment="epoch", clock=1, allowed=1.0, spent=0.9, one_pass=0.05, **by_callback):
    return {
        "moment": moment, "clock": clock, "allowed": allowed, "spent": spent, "pass": one_pass,
        "by_callback": by_callback,
    }  # fmt: skip


def make_record(**changes):
    return {
        "network": "vgg16", "images": 2000, "budget": "default", "load": "idle", "others": 0.02,
        "probes": ["a", "b", "c"], "looks": [make_look()],
        "grad_cam": {str(clock): ["a", "b", "c"] for clock in (0, 1, 2)}, "bytes": {},
    } | changes  # fmt: skip


def test_a_look_may_take_a_tenth_more_and_the_pass_of_one_image():
    assert figures.limit(make_look(allowed=2.0, one_pass=0.25)) == pytest.approx(2.45)
    assert figures.limit(make_look(allowed=-1.0, one_pass=0.25)) == 0.25  # nothing was left
    looks = [make_look(spent=1.149), make_look(clock=2, spent=1.151)]
    assert figures.find_overruns(looks) == ["epoch 2: 1.15 s, at most 1.15"]


def test_the_worst_look_is_the_one_closest_to_its_limit():
    small = make_look(allowed=1.0, spent=1.1)
    large = make_look(clock=2, allowed=10.0, spent=10.5)
    assert figures.find_worst([small, large, make_look("end", spent=99)], "epoch") is small
    assert figures.find_worst([small], "test") is None


@pytest.mark.parametrize(
    ("drawn", "fair"),
    [
        (["ab", "c", "ab"], True), (["abc", "a", "bc"], True), (["", "", "a"], True),
        (["a", "a"], False), (["ab", "a", "c"], False),
    ],
)  # fmt: skip
def test_probes_are_drawn_in_turn(drawn, fair):
    assert figures.is_fair(drawn, ["a", "b", "c"]) is fair


def test_an_idle_run_with_the_default_budget_shows_grad_cam_of_all_probes_at_each_clock():
    fewer = {"0": ["a", "b", "c"], "1": ["a", "b"], "2": ["c", "a", "b"]}
    assert figures.find_problems(make_record()) == []
    assert figures.find_problems(make_record(grad_cam=fewer)) == [
        "Grad-CAM of some probes is missing"
    ]
    for other in ({"load": "busy", "others": None}, {"budget": "tiny"}, {"others": 1.5}):
        assert figures.find_problems(make_record(grad_cam=fewer, **other)) == []
    again = {"0": ["a"], "1": ["a"]}
    assert figures.find_problems(make_record(grad_cam=again, budget="tiny")) == [
        "probes were not drawn in turn"
    ]


def test_clocks_are_read_as_numbers():
    drawn = {"10": ["a"], "9": ["b"], "2": ["a", "b", "c"]}
    assert figures.make_cells(make_record(grad_cam=drawn))[-2] == "3, 1, 1 of 3"


def test_a_line_of_the_table():
    looks = [
        make_look("start", 0, 5.0, 4.2), make_look(spent=0.5), make_look(clock=2, spent=2.0),
        make_look("end", 2, 20.0, 12.0),
    ]  # fmt: skip
    table = figures.make_table([make_record(looks=looks)]).splitlines()
    assert table[2] == (
        "| vgg16 | 2,000 | default | idle | 4.20 / 5.00 | 2.00 / 1.00 | 12.00 / 20.00 |  | "
        "3, 3, 3 of 3 | epoch 2: 2.00 s, at most 1.15 |"
    )
    assert "| 1.5 cores of others |" in figures.make_table([make_record(others=1.5)])


def test_seconds_per_look_count_the_looks_that_drew_something():
    looks = [make_look(GradCam=0.4, Curves=0.0001), make_look(GradCam=0.2, Curves=0.3)]
    found = figures.compute_seconds_per_look([make_record(looks=looks)])
    assert found == {"GradCam": 0.3, "Curves": 0.3}


def test_the_row_is_met_if_no_look_of_any_run_exceeds_its_limit():
    pair = [make_look(spent=1.15), make_look("test", spent=0.1)]
    runs = {"one": make_record(looks=[make_look(spent=0.9)]), "two": make_record(looks=pair)}
    (found,) = rows.budget({"runs": runs})
    assert (found.ours, found.peer) == ([0.9, 1.15, 0.1], [1.0, 1.0, 1.0])
    assert found.whole == pytest.approx(1.0) and found.at_most == 1.0
    runs["two"]["looks"][0]["spent"] = 1.2
    (found,) = rows.budget({"runs": runs})
    assert found.whole > 1.0 and "1 of 2 runs kept" in found.note


def test_a_name_stands_for_the_rows_that_begin_with_it():
    assert bench.select_rows("looking") == ["looking", "looking_budget"]
    assert bench.select_rows("cam_1,scratch") == ["scratch", "scratch_memory", "cam_1"]
    with pytest.raises(ValueError, match="unknown row look;"):
        bench.select_rows("look")


def test_pictures_of_a_run_are_counted_by_clock(tmp_path):
    for name in ("epoch_000/grad_cam/a.jpg", "epoch_010/grad_cam/b.jpg", "epoch_010/x.jpg"):
        file = tmp_path / "explanations" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"123")
    looks = [make_look("start", 0), make_look(clock=9), make_look(clock=10), make_look("end", 10)]
    looks += [make_look("test", 4)]
    assert budget.list_grad_cam(tmp_path, looks) == {"0": ["a"], "9": [], "10": ["b"]}
    assert budget.count_bytes(tmp_path)["10"] == {"grad_cam": 3, "x.jpg": 3}


def test_a_stopped_measurement_continues_and_disturbed_idle_runs_are_repeated(
    tmp_path, monkeypatch, capsys
):
    for split in ("train", "validation", "test"):
        (tmp_path / "photographs" / split / "cat").mkdir(parents=True)
    measured = []

    def measure(case, data, home):
        measured.append(case.key)
        home.mkdir()
        return {
            **make_record(),
            **case._asdict(),
            "took": 1,
            "others": 1.0 if len(measured) == 1 else 0.0,
        }

    monkeypatch.setattr(budget, "measure", measure)
    out = tmp_path / "budget.json"
    words = ["budget.py", "--data", str(tmp_path / "photographs"), "--out", str(out), "--quick"]
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", words)
        assert budget.main() == 0
    kinds = ["default idle", "tiny idle", "default busy", "tiny busy"]
    assert measured == [f"scratch 64 {kind}" for kind in (*kinds, "default idle")]
    assert "1 runs, about 0 minutes" in capsys.readouterr().out
    assert len(json.loads(out.read_text())["runs"]) == 4
