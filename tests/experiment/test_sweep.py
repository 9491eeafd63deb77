"""A sweep: its space, its plan, what Optuna proposes, who works on what, and its page."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time

import optuna
import pytest

from convlens.cli.main import main
from convlens.core import system
from convlens.core.errors import UserError
from convlens.experiment.sweep import leases, study, trials
from convlens.experiment.sweep.leases import take_lease
from convlens.experiment.sweep.plan import Plan, read_plan
from convlens.experiment.sweep.space import Choice, Range, list_corners, parse_space
from convlens.experiment.sweep.worker import Worker
from convlens.rundir.read import read_run
from support.kill_sweep import compare, find_trainings, start, sweep_with_kills
from support.lively import heed_ctrl_c
from support.page_parsed import Page
from support.tiny import TINY

LEAN = [*TINY, "callbacks=none", "logger=csv", "diary=null"]
SHORT = [*LEAN, "training.epochs=1"]
SPACE = "{optimizer.lr: log(1e-4,1e-1), model.head.dropout: [0,0.3], training.epochs: int(1,3)}"


def make_plan(**changes) -> Plan:
    values = {
        "words": tuple(LEAN), "space": SPACE, "trials": 3, "metrics": ("val/loss",),
        "sampler": "tpe", "pruner": "none", "storage": "sqlite", "keep": None, "seed": 0,
    }  # fmt: skip
    return Plan(**values | changes)


# -------------------------------------------------------------------------------------- the space


def test_a_space_has_choices_and_ranges():
    text = (
        "{a.b: [1, [2, 3], x y], c: uniform(0, 1), d: log(1e-5, 0.01), e: int(1,3), "
        "f: logint(8, 64)}"
    )
    assert parse_space(text) == {
        "a.b": Choice(("1", "[2, 3]", "x y")),
        "c": Range(0.0, 1.0, whole=False, log=False),
        "d": Range(1e-5, 0.01, whole=False, log=True),
        "e": Range(1, 3, whole=True, log=False),
        "f": Range(8, 64, whole=True, log=True),
    }
    assert parse_space("a: [1,2]") == parse_space("{ a :[1, 2] }")


@pytest.mark.parametrize(
    "text",
    ["", "{}", "a", "{a}", "a:", "a: 1", "a: [1,,2]", "a: []", "a: [1,1]", "a: [1], a: [2]",
     "a: log(0,1)", "a: log(-1,1)", "a: uniform(1,0)", "a: uniform(1,1)", "a: int(1.5,3)",
     "a: int(1)", "a: log(x,1)", "a: uniform(nan,1)", "a: uniform(0,inf)", "a: logint(0,3)",
     "a: normal(0,1)", "a: choice(1,2)", "a: [1", "a: log(1,2", ", a: [1]"],
)  # fmt: skip
def test_what_is_no_space_is_refused_in_a_line(text):
    with pytest.raises(UserError) as refused:
        parse_space(text)
    assert str(refused.value).startswith("space: ") and "\n" not in str(refused.value)


def test_every_value_that_decides_is_composed_once():
    space = parse_space("{a: [1,2,3], b: int(4,6)}")
    corners = [" ".join(words) for words in list_corners(space)]
    assert corners == ["a=1 b=4", "a=2 b=4", "a=3 b=4", "a=1 b=6"]


# --------------------------------------------------------------------------------------- the plan


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "sweep needs space="),
        (["space={optimizer.rate: log(1e-4,1)}"], "optimizer.rate: no such key"),
        (["space={training.epochs: int(0,3)}"], "training.epochs"),
        (["space={scheduler: [cosine,cosin]}"], "did you mean cosine"),
        (["space={training.epochs: [1,2]}", "training.epochs=3"], "leave one"),
        (["space={run_dir: [a,b]}"], "run_dir: each trial"),
        (["space={seed: [0,1]}", "trainer.fast_dev_run=true"], "leave trainer.fast_dev_run out"),
        (["space={seed: [0,1]}", "metric=test/accuracy"], "would flatter"),
        (["space={seed: [0,1]}", "metric=loss"], "metric=loss: expected"),
        (["space={seed: [0,1]}", "metric=scores/peak_row"], "nothing says whether more"),
        (["space={seed: [0,1]}", "metric=[val/loss,val/loss]"], "two different ones"),
        (["space={seed: [0,1]}", "metric=[val/loss,val/accuracy]", "pruner=median"], "pruner=none"),
        (["space={seed: [0,1]}", "metric=scores/pointing_game", "pruner=median"], "pruner=none"),
        (["space={seed: [0,1]}", "sampler=grid"], "sampler=grid: expected tpe or random"),
        (["space={seed: [0,1]}", "sampler_seed=-1"], "sampler_seed=-1: expected a whole number"),
        (["space={seed: [0,1]}", "keep=3"], "keep=3: expected best:N"),
        (["space={seed: [0,1]}", "keep=best:0"], "keep=best:0: expected best:N"),
        (["space={seed: [0,1]}", "jobs=0"], "jobs=0"),
        (["space={seed: [0,1]}", "trials=many"], "trials=many"),
        (["resume=nowhere"], "resume=nowhere: there is no sweep"),
        (["resume=nowhere", "sampler=random"], "sampler cannot change"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_a_line_before_anything_is_written(words, said, at, capsys):
    assert main(["sweep", *words]) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("convlens: ")]
    assert len(told) == 1 and said in told[0] and len(told[0]) < 250, told
    assert not list(at.iterdir())


def test_torchrun_cannot_start_it(at, capsys, monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert main(["sweep", "space={seed: [0,1]}"]) == 2
    assert "without torchrun" in capsys.readouterr().err


def test_a_plan_is_read_as_it_was_written(tmp_path):
    plan = make_plan(metrics=("val/accuracy", "scores/pointing_game"), keep=2)
    plan.write(tmp_path)
    assert read_plan(tmp_path) == plan
    assert plan.directions == ["maximize", "maximize"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 2}', "1"])
def test_a_damaged_plan_is_refused_in_a_line(text, tmp_path):
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(UserError, match=r"sweep\.json"):
        read_plan(tmp_path)


# ------------------------------------------------------------------------- what Optuna is asked for


def result(words: list[str]) -> float:
    """A result that depends on all values."""
    rate, dropout, epochs = (float(word.partition("=")[2]) for word in words)
    return (rate - 0.01) ** 2 + dropout / 10 + 1 / epochs


# TPE draws at random until it has ten trials; a database takes longer
@pytest.mark.parametrize(
    ("sampler", "storage", "count"),
    [("tpe", "journal", 14), ("random", "journal", 3), ("random", "sqlite", 3)],
)
def test_a_trial_drawn_in_two_halves_has_the_same_values(sampler, storage, count, tmp_path):
    """A process that is killed between two values leaves a trial with one."""
    plan, found = make_plan(sampler=sampler, storage=storage), {}
    for name, halves in {"whole": False, "halves": True}.items():
        (home := tmp_path / name).mkdir()
        opened = study.open_study(plan, home)
        found[name] = []
        for number in range(count):
            if halves:
                key, domain = next(iter(plan.domains.items()))
                opened.sampler = study._build_sampler(plan, number, 0)
                domain.draw(opened.ask(), key)
                opened = study.open_study(plan, home)
                words = study.find_words(opened, plan, study.list_running(opened)[0])
            else:
                new, words = study.start_trial(opened, plan)
                assert new == number
            found[name].append(words)
            study.tell(opened, number, [result(words)])
            study.tell(opened, number, [0.0])  # told again, it stays what it was
    assert found["whole"] == found["halves"]
    assert len({tuple(words) for words in found["whole"]}) == count
    told = [trial.values[0] for trial in study.list_trials(opened)]
    assert told == [result(words) for words in found["halves"]]


def test_another_seed_draws_other_values(tmp_path):
    drawn = []
    for seed in (0, 1):
        (home := tmp_path / str(seed)).mkdir()
        plan = make_plan(seed=seed)
        drawn.append(study.start_trial(study.open_study(plan, home), plan))
    assert drawn[0] != drawn[1]


def test_the_best_comes_first(tmp_path):
    opened = study.open_study(make_plan(metrics=("val/accuracy",)), tmp_path)
    for value in (0.5, 0.9, 0.7):
        number, _ = study.start_trial(opened, make_plan())
        study.tell(opened, number, [value])
    study.tell_failure(opened, study.start_trial(opened, make_plan())[0], "why")
    assert [trial.number for trial in study.rank_trials(opened)] == [1, 2, 0]


def test_of_two_metrics_the_front_comes_first(tmp_path):
    plan = make_plan(metrics=("val/accuracy", "scores/pointing_game"))
    opened = study.open_study(plan, tmp_path)
    for values in ((0.9, 0.1), (0.8, 0.05), (0.5, 0.9), (0.4, 0.2)):
        number, _ = study.start_trial(opened, plan)
        study.tell(opened, number, values)
    assert [trial.number for trial in study.rank_trials(opened)] == [0, 2, 1, 3]


def test_a_journal_that_ends_within_a_line_goes_on(tmp_path):
    """As after a power failure; Optuna alone would join the next line to it, and read neither."""
    plan = make_plan(storage="journal")
    first = study.start_trial(study.open_study(plan, tmp_path), plan)
    with open(tmp_path / "study.log", "ab") as journal:
        journal.write(b'{"op_code": 4, "worker')
    opened = study.open_study(plan, tmp_path)
    assert study.list_running(opened)[0].number == first[0]
    second = study.start_trial(opened, plan)
    running = study.list_running(study.open_study(plan, tmp_path))
    assert [trial.number for trial in running] == [0, second[0]] == [0, 1]


# ---------------------------------------------------------------------------------------- leases


def test_a_lease_is_taken_once(tmp_path):
    first = take_lease(tmp_path, 0)
    assert take_lease(tmp_path, 0) is None
    other = take_lease(tmp_path, 1)
    other.release()
    first.release()
    again = take_lease(tmp_path, 0)
    assert again
    again.release()


@pytest.mark.parametrize(
    ("host", "age", "is_free"), [("elsewhere", 10, False), ("elsewhere", 200, True), ("", 10, True)]
)
def test_a_worker_elsewhere_is_alive_while_it_touches_its_lease(host, age, is_free, tmp_path):
    """Its lock may not be seen here."""
    (folder := tmp_path / leases.FOLDER).mkdir()
    (file := folder / "0003").write_text(f"process 7 on {host or socket.gethostname()}\n")
    now = file.stat().st_mtime
    os.utime(file, (now - age, now - age))
    lease = take_lease(tmp_path, 3)
    assert (lease is not None) == is_free
    if lease:
        assert file.read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"
        lease.release()


def test_a_lease_is_touched_as_long_as_it_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "BEAT", 0.01)
    lease = take_lease(tmp_path, 0)
    file = tmp_path / leases.FOLDER / "0000"
    os.utime(file, (0, 0))
    for _ in range(3000):
        if file.stat().st_mtime > 0 or lease._ended.wait(0.01):
            break
    lease.release()
    assert file.stat().st_mtime > 0


# ------------------------------------------------------------------------------------- the worker


class Finished:
    """A process that has ended."""

    def __init__(self, status: int) -> None:
        self.status = status

    def poll(self) -> int:
        return self.status


@pytest.fixture
def in_this_process(monkeypatch):
    """Let trials run in this process, which saves their start-up; return their commands."""
    commands = []

    def run(command, *, output, environment):
        commands.append(command[3:])
        os.environ.pop("CONVLENS_RUN_DIR", None)
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            return Finished(main(command[3:]))

    monkeypatch.setattr(system, "start_group", run)
    yield commands
    os.environ.pop("CONVLENS_RUN_DIR", None)


def test_a_sweep_trains_its_trials_and_keeps_the_best_checkpoint(at, in_this_process, capsys):
    words = [*LEAN, f"space={SPACE}", "trials=3", "keep=best:1", "run_dir=sweep"]
    assert main(["sweep", *words]) == 0
    home = at / "sweep"
    opened = study.open_study(read_plan(home), home)
    ended = study.list_trials(opened)
    assert [trial.state.name for trial in ended] == ["COMPLETE"] * 3
    for trial in ended:  # the values of a trial are those of its run
        run = read_run(trials.trial_folder(home, trial.number))
        assert trial.values == [run.summary["val"]["loss"]]
        assert run.config.plain["optimizer"]["lr"] == trial.params["optimizer.lr"]
        assert run.config.epochs == trial.params["training.epochs"]
    best = min(ended, key=lambda trial: trial.values[0]).number
    kept = [trials.trial_folder(home, n).joinpath("checkpoints").exists() for n in range(3)]
    assert kept == [number == best for number in range(3)]
    page = Page((home / "sweep.html").read_text())
    printed = capsys.readouterr().out
    for trial in ended:
        assert (
            f"{trial.values[0]:.4f}" in page.all("body")[0].text
            and f"{trial.values[0]:.4f}" in printed
        )
    # nothing is left to do, and nothing is done again
    count = len(in_this_process)
    assert main(["sweep", "resume=sweep"]) == 0 and len(in_this_process) == count
    assert main(["sweep", "resume=sweep", "trials=4"]) == 0 and len(in_this_process) == count + 1


def test_a_trial_that_fails_is_told_and_stops_no_other(at, in_this_process, capsys):
    """Two pictures a class are too few for a split."""
    space = "space={data.pictures: [10,60]}"
    words = [word for word in SHORT if not word.startswith("data.pictures")]
    assert main(["sweep", *words, space, "trials=4", "sampler=random", "run_dir=sweep"]) == 0
    plan = read_plan(at / "sweep")
    for trial in study.list_trials(study.open_study(plan, at / "sweep")):
        failed = trial.params["data.pictures"] == "10"
        assert trial.state.name == ("FAIL" if failed else "COMPLETE")
    assert "failed: " in capsys.readouterr().out


def test_a_metric_that_a_run_lacks_ends_the_sweep_in_a_line(at, in_this_process, capsys):
    words = [*SHORT, "space={seed: [0,1]}", "metric=scores/pointing_game", "run_dir=sweep"]
    assert main(["sweep", *words]) == 2
    said = capsys.readouterr().err
    assert "metric=scores/pointing_game: sweep/trials/0000 has no such number" in said


@pytest.mark.slow
def test_pruning_stops_the_runs_that_optuna_itself_would_stop(at, in_this_process):
    """The reference is Optuna's own loop, which is told the same results."""
    space = "space={optimizer.lr: log(1e-6,1e-1)}"
    words = [*LEAN, "training.epochs=4", space, "trials=7", "sampler=random", "pruner=median"]
    assert main(["sweep", *words, "run_dir=sweep"]) == 0
    curves = [read_run(trials.trial_folder(at / "sweep", n)).curve("val/loss") for n in range(7)]

    def objective(trial):
        curve = curves[trial.number]
        for epoch in (1, 2, 3):
            trial.report(curve[epoch], epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return min(curve[epoch] for epoch in (1, 2, 3, 4))

    pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1)
    reference = optuna.create_study(pruner=pruner)
    reference.optimize(objective, n_trials=7)
    ended = study.list_trials(study.open_study(read_plan(at / "sweep"), at / "sweep"))
    assert [trial.state for trial in ended] == [trial.state for trial in reference.trials]
    stopped = [trial for trial in ended if trial.state.name == "PRUNED"]
    assert stopped and [max(curve) for curve in curves] == [
        trial.last_step if trial.state.name == "PRUNED" else 4 for trial in reference.trials
    ]
    # up to there it is the run that these words give, and its checkpoints stay
    rate = stopped[0].params["optimizer.lr"]
    assert main(["train", *LEAN, "training.epochs=4", f"optimizer.lr={rate!r}", "run_dir=run"]) == 0
    whole, cut = read_run(at / "run"), trials.trial_folder(at / "sweep", stopped[0].number)
    assert read_run(cut).rows == whole.rows[: len(read_run(cut).rows)]
    assert (cut / "checkpoints" / "last.ckpt").exists()


def test_two_workers_share_the_trials(at, in_this_process):
    """The second one finds the first one's trial taken, and takes the next."""
    plan = make_plan(trials=2)
    (home := at / "sweep").mkdir()
    plan.write(home)
    first, second = (Worker(plan, home, 1, print) for _ in range(2))
    assert first._start_one() and second._start_one()
    assert [each.running[0].number for each in (first, second)] == [0, 1]
    assert not first._start_one() and not second._start_one()
    first.work()
    second.work()
    ended = study.list_trials(first.study)
    assert [trial.state.name for trial in ended] == ["COMPLETE"] * 2


# ------------------------------------------------------------------------------------- the promises


@pytest.mark.slow
def test_kill_9_of_a_sweep_and_of_a_trial_lose_nothing(tmp_path):
    words = [*LEAN, f"space={SPACE}", "trials=3"]
    cache = tmp_path / "cache"
    alone = start([*words, f"run_dir={tmp_path / 'alone'}"], cache)
    said = sweep_with_kills(tmp_path / "killed", cache, words, kills=1, seed=0)
    assert alone.wait() == 0
    assert any("killed the sweep" in line for line in said)
    assert compare(tmp_path / "alone", tmp_path / "killed") == []


@pytest.mark.slow
def test_two_sweeps_at_once_make_one_study(tmp_path):
    words = [*LEAN, f"space={SPACE}", "trials=4", "sampler=random"]
    cache, home = tmp_path / "cache", tmp_path / "shared"
    first = start([*words, f"run_dir={home}"], cache)
    while not (home / "study.db").exists():
        assert first.poll() is None
    second = start([f"resume={home}"], cache)
    said = [process.communicate()[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), said
    opened, plan = study.open_study(read_plan(home), home), read_plan(home)
    assert [trial.state.name for trial in study.list_trials(opened)] == ["COMPLETE"] * 4
    begun = [line for text in said for line in text.splitlines() if " starts: " in line]
    assert len(begun) == 4 and all(" starts: " in text for text in said)
    # values of trials do not depend on who draws them
    (tmp_path / "alone").mkdir()
    alone = study.open_study(plan, tmp_path / "alone")
    drawn = [study.start_trial(alone, plan)[1] for _ in range(4)]
    assert drawn == [study.find_words(opened, plan, each) for each in study.list_trials(opened)]


@pytest.mark.slow
def test_ctrl_c_stops_its_trials_and_says_how_to_go_on(tmp_path):
    words = [*TINY, "callbacks=none", "training.epochs=100000", "scheduler=constant",
             "space={seed: [0,1]}", "jobs=2", f"run_dir={tmp_path / 'sweep'}"]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "convlens", "sweep", *words], stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, preexec_fn=heed_ctrl_c,
    )  # fmt: skip
    folders = [trials.trial_folder(tmp_path / "sweep", n) for n in range(2)]
    try:
        while not all((folder / "checkpoints" / "last.ckpt").exists() for folder in folders):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
        left = find_trainings(tmp_path / "sweep")
    finally:
        process.kill()
        for number in find_trainings(tmp_path / "sweep"):
            os.kill(number, signal.SIGKILL)
    assert process.returncode == 130 and not left, said
    assert "interrupted with 2 unfinished trials" in said and "sweep resume=" in said
    assert json.loads((tmp_path / "sweep" / "sweep.json").read_text())["trials"] == 20
