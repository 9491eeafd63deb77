"""``make train [exp=NAME] [key=value …]``; ``multirun=true`` with ``key=a,b`` for several runs.

Several runs are trained one after another, one for each combination of values.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from rich.table import Table

from convlens.cli.results import folded, print_closing, right, screen
from convlens.cli.words import RECIPE, Keys, Word, Words, extract_words, read_switch
from convlens.config.compose import compose
from convlens.core.command_lines import command_line
from convlens.core.errors import Interrupted, UserError
from convlens.core.loading import loading_libraries
from convlens.core.processes import is_first_process, is_launched_externally
from convlens.core.stopwatch import Stopwatch

if TYPE_CHECKING:
    from convlens.experiment.multirun import Job

WORDS: Words = {
    **RECIPE,
    "multirun": Word(
        "train one run for each combination of the values in key=a,b",
        form="true|false", default="false", values=("true", "false"), flags=("-m", "--multirun"),
    ),
    "resume": Word(
        "with multirun=true: keep the finished runs in run_dir, and continue the others",
        form="true|false", default="false", values=("true", "false"),
    ),
    "folds": Word(
        "cross-validation: train one run for each of N folds, in which every image is tested once",
        form="N",
    ),
}  # fmt: skip
KEYS = Keys()
MOST_FOLDS = 1000
FIRST = (
    "exp", "model", "data", "data.dir", "data.size", "training.epochs", "training.batch_size",
    "optimizer.lr", "trainer",
)  # fmt: skip
EXAMPLES = (
    "convlens train",
    "convlens train data=image_folder data.dir=data/mine training.epochs=20",
    "convlens train exp=finetune_vgg16 data=image_folder data.dir=data/mine",
)


def run(words: list[str]) -> int:
    is_multirun, overrides = split_multirun(words)
    resumed = read_switch(extract_words(words, WORDS)[0], "resume")
    if resumed and not is_multirun:
        again = command_line("resume", run="RUN_DIR")
        raise UserError(f"resume=true belongs to multirun=true; `{again}` continues one run")
    if is_multirun:
        return _train_all(overrides, resumed)
    with Stopwatch("setup").running():
        config = compose(overrides)
        with loading_libraries():
            from convlens.experiment.train import train

        home, summary = train(config)
    if not is_first_process():
        return 0
    if config.trainer.fast_dev_run:
        print("dry run: one batch of training, validation and test passed; nothing is kept")
    else:
        print_closing(home, summary)
    return 0


def split_multirun(words: list[str]) -> tuple[bool, list[str]]:
    """Return whether several runs are requested, and the other words, with one value for each run.

    Raises:
        UserError: ``multirun`` is neither true nor false, or ``folds`` is no number in its range.
    """
    values, overrides = extract_words(words, WORDS)
    if (folds := values["folds"]) is None:
        return read_switch(values, "multirun"), overrides
    if not folds.isdecimal() or not 2 <= int(folds) <= MOST_FOLDS:
        raise UserError(f"folds={folds}: expected a whole number from 2 to {MOST_FOLDS}")
    numbers = ",".join(map(str, range(int(folds))))
    return True, [*overrides, f"data.split.folds={folds}", f"data.split.fold={numbers}"]


def _train_all(overrides: list[str], resumed: bool) -> int:
    """Train each combination in its own processes; return 1 if any failed.

    Raises:
        UserError: a combination does not compose, or its folder is taken; no run is started.
        Interrupted: Ctrl-C, which ends the current run and starts no other.
    """
    if is_launched_externally():
        raise UserError("multirun=true starts its runs itself: call it without torchrun or srun")
    from convlens.experiment.multirun import TRAINED, build_jobs, record_jobs, train_job

    if resumed and not any(word.startswith("run_dir=") for word in overrides):
        raise UserError("resume=true needs run_dir=…, the folder of the runs")
    jobs = build_jobs(overrides, resumed=resumed)
    record_jobs(jobs, resumed=resumed)
    is_stopped = False
    for number, job in enumerate(jobs, 1):
        is_finished = job.state == TRAINED
        note = " (finished before)" if is_finished else ""
        print(f"run {number} of {len(jobs)}: {job.label}{note}", flush=True)
        if is_stopped := not is_finished and train_job(job):
            break
    _print_jobs(jobs)
    if is_stopped:
        raise Interrupted(f"interrupted in run {number} of {len(jobs)}")
    return int(any(job.state != TRAINED for job in jobs))


def _print_jobs(jobs: list[Job]) -> None:
    from convlens.experiment.multirun import FAILED

    failed = sum(job.state.startswith(FAILED) for job in jobs)
    print(f"{len(jobs)} runs, {failed} failed; accuracy of each at its lowest validation loss")
    table = Table("run", right("validation"), right("test"), folded("run folder"))
    for job in jobs:
        cells = [f"{value:.4f}" for value in job.accuracies.values()] or [job.state, ""]
        table.add_row(job.label, *cells, str(job.home or ""))
    for name, pick in (("mean", statistics.fmean), ("standard deviation", statistics.stdev)):
        if len(trained := [job.accuracies for job in jobs if job.accuracies]) > 1:
            cells = [f"{pick([row[stage] for row in trained]):.4f}" for stage in ("val", "test")]
            table.add_row(name, *cells, f"of {len(trained)} runs")
    screen().print(table)
