"""``make runs``: every run in one table, sorted as asked; a bad folder breaks nothing."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys

import pytest

from convlens.cli.runs import run as command
from convlens.core.errors import UserError
from convlens.rundir import lock
from convlens.rundir.lock import LOCK, Hold, find_holder
from convlens.rundir.read import read_run
from convlens.rundir.runs import find_newest_run, read_all_runs
from support.runs_made import CONFIG, changed, write_run


@pytest.fixture
def runs(at):
    """Four runs below outputs/, started one after another."""
    made = {
        "scratch/a": ([2.0, 0.9, 1.1], (0.8, 0.6), 30.0, True),
        "scratch/b": ([2.0, 0.5], (0.6, 0.9), 10.0, True),
        "hans/c": ([2.0, 1.0], (3.0, 0.7), 20.0, True),
        "scratch/d": ([2.0, 0.7, 0.8, 0.9], (0.0, 0.0), 0.0, False),
    }
    for number, (name, (losses, test, seconds, finished)) in enumerate(made.items()):
        home = write_run(
            at / "outputs" / name, losses, test=test, seconds=seconds, finished=finished,
            config=changed(CONFIG, seed=number, experiment=name.partition("/")[0]),
            alarms=("overfitting",) if name == "scratch/a" else (),
        )  # fmt: skip
        os.utime(home / "config.yaml", (1_700_000_000 + 60 * number,) * 2)
    return at / "outputs"


def printed(capsys, *words: str) -> dict[str, list[str]]:
    """The table that the command prints: run -> its other cells, in the order of the rows."""
    assert command(list(words)) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]
    return {row[0]: row[1:] for row in cells}


def test_the_table_tells_what_the_folders_hold(runs, capsys):
    table = printed(capsys)
    assert list(table) == ["scratch/d", "hans/c", "scratch/b", "scratch/a"]  # newest first
    _, *cells = table["scratch/a"]  # the date rests on the time zone
    assert cells == [
        "scratch", "0", "2", "0.9000", f"{1 / 1.9:.4f}", "0.6000", "30", "1", "finished"
    ]  # fmt: skip
    _, *cells = table["scratch/d"]
    assert cells[1:5] == ["3", "3", "0.7000", f"{1 / 1.7:.4f}"]
    assert cells[5:] == ["", "", "", "stopped at epoch 3"]


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("test/accuracy", "bcad"),
        ("-test/accuracy", "bcad"),
        ("+test/accuracy", "acbd"),
        ("val/loss", "bdac"),
        ("-val/loss", "cadb"),
        ("val/accuracy", "bdac"),
        ("test/f1/cat", "bcad"),
        ("seconds", "bcad"),
        ("seconds/training", "bcad"),
        ("seed", "abcd"),
        ("-epochs", "dacb"),
        ("alarms", "cbad"),
        ("run", "cabd"),
        ("date", "dcba"),
        ("+date", "abcd"),
        ("experiment", "cabd"),
    ],
)
def test_sorted_as_asked_and_what_lacks_the_number_comes_last(runs, capsys, sort, expected):
    assert "".join(name[-1] for name in printed(capsys, f"sort={sort}")) == expected


def test_another_number_gets_a_column(runs, capsys):
    assert [cells[9] for cells in printed(capsys, "sort=test/f1/cat").values()] == [
        "0.9", "0.7", "0.6", ""
    ]  # fmt: skip


@pytest.mark.parametrize("word", ["test/acuracy", "-test/acuracy"])
def test_an_unknown_key_names_the_nearest(runs, word):
    with pytest.raises(UserError, match=f"sort={word}: no run .* did you mean test/accuracy"):
        command([f"sort={word}"])


def test_runs_that_cannot_be_read_are_named_and_stop_nothing(runs, capsys):
    broken = {
        "b1/config.yaml": "{a: [",
        "b2/config.yaml": "- a list\n",
        "b3/config.yaml": "experiment: x\n",
        "b3/summary.json": "{",
        "b4/config.yaml": "experiment: x\n",
        "b4/metrics.csv": "epoch,val/loss\n0,1\n1\n2,many\n",
        "b5/summary.json": "{}",
        "b6/config.yaml": "experiment: x\n",
        "b6/metrics.csv": "when,val/loss\n0,1\n",
        "b7/config.yaml": "experiment: x\n",
        "b7/summary.json": "[1]",
        "b8/config.yaml": "experiment: x\n",
        "b8/metrics.csv": "epoch,val/loss\n0,1,2\n",
    }
    for name, text in broken.items():
        (runs / name).parent.mkdir(exist_ok=True)
        (runs / name).write_text(text)
    (runs / "b9").mkdir()
    (runs / "b9" / "config.yaml").write_bytes(b"experiment: \xff\xfe\n")
    assert command(["sort=val/loss"]) == 0
    text = capsys.readouterr().out
    assert text.count("failed to read") == 9
    reasons = [line for line in text.splitlines() if line.startswith("! ")]
    assert len(reasons) == 9
    for number in range(1, 10):
        assert any(f"outputs/b{number}" in reason for reason in reasons), number
    assert "many" in next(reason for reason in reasons if "/b4/" in reason)


def test_what_a_run_keeps_inside_is_no_run(runs):
    inside = runs / "scratch" / "a" / "explanations" / "epoch_000"
    inside.mkdir(parents=True)
    (inside / "config.yaml").write_text("experiment: x\n")
    assert len(read_all_runs(runs)) == 4


def test_a_run_without_results_yet_and_an_old_summary(at):
    fresh = at / "fresh"
    fresh.mkdir()
    (fresh / "config.yaml").write_text("experiment: x\n")
    assert read_run(fresh).state == "stopped at epoch 0"
    old = write_run(at / "old", [2.0, 1.0])
    (old / "summary.json").write_text(json.dumps({"epochs": None, "val": {"loss": float("nan")}}))
    assert command([f"dir={at}", "sort=val/loss"]) == 0


def test_an_empty_or_missing_folder_is_told(at):
    (at / "outputs").mkdir()
    with pytest.raises(UserError, match="no run in outputs/ yet"):
        command([])
    with pytest.raises(UserError, match="no folder elsewhere"):
        command(["dir=elsewhere"])


def test_it_starts_without_torch(runs):
    code = (
        "import sys; from convlens.cli.runs import run; run([]); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'pytorch_lightning', 'hydra')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def state(home) -> str:
    return read_run(home).state


def test_a_run_is_running_while_a_process_holds_its_folder(runs, capsys):
    with Hold() as hold:
        hold.take(runs / "scratch" / "d")
        hold_a = Hold()
        hold_a.take(runs / "scratch" / "a")  # finished once, and trained anew with more epochs
        table = printed(capsys)
        assert table["scratch/d"][-1] == "running, epoch 3 done"
        assert table["scratch/a"][-1] == "running, epoch 2 done"
        assert table["hans/c"][-1] == "finished"
        hold_a.__exit__()
    table = printed(capsys)
    assert table["scratch/d"][-1] == "stopped at epoch 3"
    assert table["scratch/a"][-1] == "finished"


HOLD = (
    "import sys, time; from pathlib import Path; from convlens.rundir.lock import Hold\n"
    "with Hold() as hold:\n"
    "    hold.take(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
)


def test_a_killed_process_holds_nothing(runs):
    home = runs / "scratch" / "d"
    child = subprocess.Popen([sys.executable, "-c", HOLD, home], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "held\n"
        assert state(home) == "running, epoch 3 done"
        assert find_holder(home).name.startswith(f"process {child.pid} on ")
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    assert state(home) == "stopped at epoch 3"


def test_where_locks_do_not_reach_another_machine_is_named(runs, monkeypatch):
    home = runs / "scratch" / "d"
    with Hold() as hold:
        monkeypatch.setattr(lock.socket, "gethostname", lambda: "far")
        hold.take(home)
        monkeypatch.undo()
        text = (home / LOCK).read_text()
        assert state(home) == "running, epoch 3 done"
    assert state(home) == "stopped at epoch 3"  # it ended by itself, and took its name back
    (home / LOCK).write_text(text)
    assert state(home) == "stopped at epoch 3, or running on far"


def test_all_epochs_and_no_summary_is_trained_not_tested(at):
    home = write_run(at / "run", [2.0, 1.0, 0.9], finished=False)  # training.epochs is 2
    assert state(home) == "trained, not tested"


def test_looking_at_a_lock_lets_no_run_fail(runs):
    """A run that starts while `make runs` holds the shared lock for a moment waits that long."""
    import threading

    home = runs / "scratch" / "d"
    with Hold() as hold:
        hold.take(home)  # makes the file
    looking = os.open(home / LOCK, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    threading.Timer(0.1, os.close, [looking]).start()
    with Hold() as hold:
        hold.take(home)
    with Hold() as hold, Hold() as other, pytest.raises(UserError, match="in use"):
        hold.take(home)
        other.take(home)


def test_last_is_the_newest_run_with_what_the_command_needs(runs, capsys):
    from convlens.experiment.inputs import find_checkpoint
    from convlens.rundir import log as logs
    from convlens.rundir.runs import find_run

    logs.log_to_screen()
    newest, older = runs / "scratch" / "d", runs / "hans" / "c"
    best = "checkpoints/best.ckpt"
    for asked in (("last", None), (None, "last")):
        with pytest.raises(UserError, match=f"no run in outputs/ has {best} yet; .*scratch/d"):
            find_checkpoint(*asked)
    (older / "checkpoints").mkdir()
    (older / best).touch()
    capsys.readouterr()
    for asked in (("last", None), (None, "last")):
        assert find_checkpoint(*asked).resolve() == older / best
        said = capsys.readouterr().out
        assert "last is outputs/hans/c: the newer outputs/scratch/d has no checkpoints" in said
    assert find_newest_run().resolve() == newest  # to resume, a run needs no checkpoint
    (newest / "metrics.csv").unlink()
    assert find_run("last").resolve() == older  # to compare, it needs numbers
    (runs / ".hydra").mkdir()
    (runs / ".hydra" / "config.yaml").touch()
    (newest / "probes").mkdir()
    (newest / "probes" / "config.yaml").touch()
    assert find_newest_run().resolve() == newest


def test_a_page_of_other_runs_is_not_overwritten(runs, capsys):
    from convlens.cli.compare import run as compare

    both = "runs=scratch/a scratch/b"
    assert compare([both, "run_dir=page"]) == 0
    page = (runs.parent / "page" / "compare.html").read_bytes()
    with pytest.raises(UserError, match="run_dir=page already contains compare.html"):
        compare(["runs=hans/c scratch/b", "run_dir=page"])
    assert (runs.parent / "page" / "compare.html").read_bytes() == page


def test_eval_of_two_checkpoints_is_refused(runs):
    from convlens.cli.eval import run as evaluate

    with pytest.raises(UserError, match="ckpt=a.ckpt run=b: both name a checkpoint"):
        evaluate(["ckpt=a.ckpt", "run=b"])
