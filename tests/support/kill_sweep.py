"""Kill a sweep and its trials with ``kill -9`` at random moments, resume it, compare the trials.

    python tests/support/kill_sweep.py --trials 12 --kills 2 --seed 0

Half of the kills end the sweep alone, while its trial goes on without it; half end the process of a
trial. In the end each trial must have the same values, the same result and the same files as in a
sweep that was left alone.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from convlens.experiment.sweep.plan import read_plan
from convlens.experiment.sweep.study import list_trials, open_study
from convlens.rundir.lock import find_holder
from support.lively import COMMAND, differences, environment
from support.tiny import TINY

SPACE = (
    "space={optimizer.lr: log(1e-4,1e-1), model.head.dropout: [0,0.3], training.epochs: int(1,3)}"
)
WORDS = [*TINY, "callbacks=none", "logger=csv", SPACE]
# a trial that nothing ends is lost; so is one that ends twice
State = dict[int, tuple]


def start(words: list[str], cache: Path) -> subprocess.Popen:
    """Start ``convlens sweep …``; its trials stay in groups of their own."""
    return subprocess.Popen(
        [*COMMAND, "sweep", *words], env=environment(cache), text=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def read_trials(home: Path) -> State:
    """Return state, values and results of each trial."""
    study = open_study(read_plan(home), home)
    return {t.number: (t.state.name, t.params, t.values) for t in list_trials(study)}


def find_trainings(home: Path) -> list[int]:
    """Return the numbers of the processes that train a trial."""
    holders = (find_holder(folder) for folder in (home / "trials").glob("[0-9]*[0-9]"))
    return [int(re.search(r"\d+", each.name)[0]) for each in holders if each.is_alive]


def sweep_with_kills(home: Path, cache: Path, words: list[str], kills: int, seed: int) -> list[str]:
    """Run a sweep to its end in spite of kills; return what happened, in lines."""
    draw = np.random.Generator(np.random.PCG64(seed))
    told, process = [], start([*words, f"run_dir={home}"], cache)
    for number in range(2 * kills):
        while not (trainings := find_trainings(home)):
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        time.sleep(3 * draw.random())  # a trial takes a second or two, and its test and page
        if number % 2:
            with contextlib.suppress(ProcessLookupError):
                os.kill(trainings[0], signal.SIGKILL)
            told.append(f"killed the training {trainings[0]}")
            continue
        process.kill()
        told += process.communicate()[0].splitlines()
        told.append(f"killed the sweep; {len(find_trainings(home))} trials went on")
        process = start([f"resume={home}"], cache)
    told += process.communicate()[0].splitlines()
    assert process.returncode == 0, told[-20:]
    return told


def compare(one: Path, other: Path) -> list[str]:
    """Return where two sweeps differ."""
    a, b = read_trials(one), read_trials(other)
    found = [f"trial {n}: {a.get(n)} and {b.get(n)}" for n in sorted(a | b) if a.get(n) != b.get(n)]
    for number in a:
        folders = (home / "trials" / f"{number:04d}" for home in (one, other))
        found += [f"trial {number}: {line}" for line in differences(*folders)]
    return found


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--kills", type=int, default=2, help="of the sweep, and of trials")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("words", nargs="*", help="further words, such as storage=journal")
    args = parser.parse_args()
    words = [*WORDS, f"trials={args.trials}", *args.words]
    with tempfile.TemporaryDirectory() as folder:
        alone, killed, cache = (Path(folder) / name for name in ("alone", "killed", "cache"))
        process = start([*words, f"run_dir={alone}"], cache)
        assert process.wait() == 0, process.stdout.read()
        print(*sweep_with_kills(killed, cache, words, args.kills, args.seed), sep="\n")
        found = compare(alone, killed)
    print(*found, f"{args.trials} trials, {len(found)} differences", sep="\n")
    sys.exit(bool(found))


if __name__ == "__main__":
    run()
