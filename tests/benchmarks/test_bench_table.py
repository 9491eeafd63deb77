"""`make bench`: ratios, medians, targets and failed rows come out of the rounds as they should."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import bench  # noqa: E402
import rounds as protocol  # noqa: E402
import rows  # noqa: E402
import table  # noqa: E402

FAST = table.Row("fast", "training [images/s]", "Keras", at_least=2.0)
COST = table.Row("cost", "a step [s]", "a plain loop", at_most=1.03)
FREE = table.Row("free", "memory [MB]", "Keras")


def test_medians_and_spread_of_ratios_within_rounds():
    found = table.measured(
        FAST, table.Rounds([200.0, 90.0, 300.0], [100.0, 30.0, 200.0], [2.0, 3.0, 1.5])
    )
    assert found["ours"] == {"median": 200.0, "min": 90.0, "max": 300.0}
    # the median of the ratios, not the ratio of the medians
    assert found["ratio"] == {"median": 2.0, "min": 1.5, "max": 3.0}
    assert found["met"] is True and found["target"] == "≥ 2"


@pytest.mark.parametrize(
    ("row", "ratio", "met"),
    [
        (FAST, 2.0, True), (FAST, 1.999, False), (COST, 1.03, True), (COST, 1.031, False),
        (FREE, 0.1, None),
    ],
)  # fmt: skip
def test_target_met_or_missed(row, ratio, met):
    found = table.measured(row, table.Rounds([1.0], [1.0], [ratio]))
    assert found["met"] is met
    assert table.cells(found)[-1] == {True: "yes", False: "no", None: ""}[met]


def test_rounds_of_one_side_only_are_refused():
    with pytest.raises(ValueError, match="both sides"):
        table.measured(FAST, table.Rounds([1.0, 2.0], [1.0], [1.0]))
    with pytest.raises(ValueError, match="both sides"):
        table.measured(FAST, table.Rounds([], [], []))


def test_a_failed_row_is_shown_with_its_reason_in_one_line():
    lines = [
        table.measured(COST, table.Rounds([1.0], [1.0], [1.02])),
        table.failed(FAST, "no\nTensorFlow"),
    ]
    last = table.as_text(lines).splitlines()[-1]
    assert last.split()[-5:] == ["failed", "≥", "2", "no", "TensorFlow"]
    assert "| failed | ≥ 2 | no TensorFlow |" in table.as_markdown(lines)
    assert lines[1]["met"] is False


def test_markdown_goes_between_the_marks_and_nowhere_else(tmp_path):
    page = tmp_path / "benchmarks.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    lines = [table.measured(FAST, table.Rounds([210.0], [100.0], [2.1], "one round"))]
    table.put_between(page, table.as_markdown(lines))
    text = page.read_text()
    assert text.startswith(f"before\n{table.BEGIN}\n| row |") and text.endswith(
        f"\n{table.END}\nafter\n"
    )
    assert "| training [images/s] | 210 | Keras | 100 | 2.10 (2.10 to 2.10) | ≥ 2 | yes |" in text
    assert "old" not in text and "- training [images/s]: one round" in text
    page.write_text("no marks")
    with pytest.raises(ValueError, match="bench: begin"):
        table.put_between(page, "")


def side(precision: str, threads: int) -> dict:
    return {"precision": precision, "cores": 2, "threads": {"intra_op": threads}}


def test_throughput_file_gives_speed_and_memory_and_says_what_differs():
    told = {
        "sides": {"convlens": side("bf16", 2), "keras": side("float32", 0)},
        "rounds": [
            {
                "convlens": 220.0, "keras": 100.0, "others": 0.04,
                "peak_mb": {"convlens": 500.0, "keras": 1000.0},
            },
            {
                "convlens": 200.0, "keras": 100.0, "others": None,
                "peak_mb": {"convlens": 400.0, "keras": 1000.0},
            },
        ],
    }  # fmt: skip
    speed, memory = rows.sides(told)
    assert speed.ratios == [2.2, 2.0]
    assert speed.note == "precision bf16, peer float32"  # 0 threads: one for each core, as ours
    assert memory.ratios == [2.0, 2.5]
    (cost,) = rows.sides(told, cost=True)
    assert cost.ratios == [pytest.approx(1 / 2.2), 0.5]


def test_other_threads_and_another_torch_are_said():
    told = {"sides": {"convlens": side("32", 2), "plain": side("32", 1)}, "rounds": []}
    assert rows.precisions(told) == "precision 32, peer 32; 2 threads, peer 1"
    task = {"peer": {"torch": "2.14.1", "threads": 1}}
    told = {"versions": {"torch": "2.15.0"}, "threads": 2, "tasks": {"early": task, "deep": {}}}
    assert rows.separate(told, "early") == "torch 2.15.0, peer 2.14.1; threads 2, peer 1"
    assert rows.separate(told, "deep") == ""  # no peer of its own


def test_the_hosts_time_may_be_half_a_millisecond_above_lightnings():
    told = {"rounds": [
        {"convlens": 1.5, "lightning": 1.0, "plain": 0.5},
        {"convlens": 1.25, "lightning": 1.0, "plain": 0.5},
        {"convlens": 3.0, "lightning": 2.0, "plain": 1.0},
    ]}  # fmt: skip
    beside, above = rows.host_step(told)
    assert beside.ratios == [1.5, 1.25, 1.5] and above.ratios == [3.0, 2.5, 3.0]
    assert beside.at_most == 1.5 and above.at_most is None
    assert (beside.note, above.note) == ("0.50 ms more", "1.00 ms more")
    row = next(job for job in rows.JOBS if job.name == "host_step").rows[0]
    assert table.measured(row, beside)["met"] is True
    slower = [{**line, "convlens": line["convlens"] + 0.1} for line in told["rounds"]]
    assert table.measured(row, rows.host_step({"rounds": slower})[0])["met"] is False


def test_an_epoch_on_stored_features_says_its_precision():
    told = {
        "sides": {"convlens": side("32", 2), "keras": side("float32", 0)},
        "rounds": [{"seconds": {"convlens": 2.0, "keras": 100.0}}],
    }
    (found,) = rows.epochs(told)
    assert found.ratios == [50.0] and found.note == "precision 32, peer float32"


def test_looking_is_compared_with_the_same_epochs_without_it():
    epochs = [{"seconds": 100.0, "looking": 4.0}, {"seconds": 50.0, "looking": 0.0}]
    (found,) = rows.looking({"rounds": [{"default": {"looking": {"by_epoch": epochs}}}]})
    assert found.ours == [104.0, 50.0] and found.ratios == [1.04, 1.0]
    (row,) = next(job.rows for job in rows.JOBS if job.name == "looking")
    line = table.measured(row, found)
    assert line["ratio"] == {"median": pytest.approx(1 + 4 / 150), "min": 1.0, "max": 1.04}
    assert line["target"] == "≤ 1.05" and line["met"] is True


@pytest.mark.parametrize(("looked", "met"), [(1.0, True), (1.1, False)])
def test_one_second_of_looking_is_allowed_in_short_epochs(looked, met):
    epochs = [{"seconds": 10.0, "looking": looked}] * 2
    (found,) = rows.looking({"rounds": [{"default": {"looking": {"by_epoch": epochs}}}]})
    line = table.measured(table.Row("looking", "", "", at_most=1.05), found)
    assert line["target"] == "≤ 1.1" and line["met"] is met


def test_rows_have_names_of_their_own_and_scripts_that_exist():
    names = [row.name for job in rows.JOBS for row in job.rows]
    assert len(names) == len(set(names)) == len(rows.ROWS)
    for job in rows.JOBS:
        assert (BENCHMARKS / job.command[0]).is_file()
        for peer in job.peers:
            assert bench.pinned(peer)


def test_a_row_that_fails_loses_no_other(tmp_path, monkeypatch, capsys):
    """One script dies, one needs pictures that are not there, one measures."""
    scripts = {
        "good.py": "import json, sys; out = sys.argv[sys.argv.index('--out') + 1]\n"
        "told = {'tasks': {'t': {'rounds': [{'ours': 2.0, 'peer': 5.0}]}}}\n"
        "open(out, 'w').write(json.dumps(told))",
        "bad.py": "raise SystemExit('the peer has gone')",
    }
    for name, text in scripts.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(bench, "HERE", tmp_path)
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "results")

    def job(name, row, needs=()):
        read = lambda told: rows.tasks(told, ["t"], [("ours", "peer")])  # noqa: E731
        return rows.Job(name, [f"{name}.py"], [], [row], read, needs)

    jobs = [job("bad", FAST), job("good", FREE), job("pictures", COST, (rows.PICTURES,))]
    monkeypatch.setattr(bench, "JOBS", jobs)
    monkeypatch.setattr(bench, "ROWS", {job.rows[0].name: job for job in jobs})
    monkeypatch.setattr(
        sys, "argv", ["bench.py", "--data", str(tmp_path / "nowhere"), "--rounds", "1"]
    )
    assert bench.main() == 1
    told = json.loads((tmp_path / "results" / "bench.json").read_text())
    bad, good, pictures = told["rows"]
    assert bad["failed"].startswith("the peer has gone")
    assert good["ratio"]["median"] == 2.5
    assert pictures["failed"].startswith(f"no folder {tmp_path / 'nowhere' / 'train'}")
    assert set(told["versions"]["convlens"]) >= {"python", "torch", "convlens"}
    assert "not measured: fast, cost" in capsys.readouterr().err


def test_a_peer_that_did_not_run_leaves_the_other_rows():
    lines = [{"plain": 1.0, "one by one": 4.0}, {"plain": 2.0, "one by one": 4.0}]
    told = {"tasks": {"early": {"rounds": lines}}}
    beside, lucent = rows.tasks(told, ["early"], [("plain", "one by one"), ("robust", "lucent")])
    assert beside.ratios == [4.0, 2.0] and lucent is None


def test_strict_makes_a_missed_target_the_exit_status(capsys):
    lines = [table.measured(FAST, table.Rounds([1.0], [1.0], [1.0]))]
    plain = bench.argparse.Namespace(strict=False, quick=False, markdown=False)
    assert bench.close(plain, lines) == 0
    assert (
        bench.close(bench.argparse.Namespace(strict=True, quick=False, markdown=False), lines) == 1
    )
    assert "target missed: fast" in capsys.readouterr().err


def test_peak_memory_counts_what_this_process_held_and_not_its_parent():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import rounds; print(rounds.peak_megabytes())"
    )
    held = bytearray(300_000_000)  # the parent's
    small = subprocess.run(
        [sys.executable, "-c", code, str(BENCHMARKS)], capture_output=True, text=True
    )
    large = subprocess.run(
        [sys.executable, "-c", f"held = b'x' * 100_000_000; {code}", str(BENCHMARKS)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert held is not None
    if protocol.peak_megabytes() is None:
        pytest.skip("this system does not tell the peak")
    assert 5 < float(small.stdout) < 100 < float(large.stdout) < 200
