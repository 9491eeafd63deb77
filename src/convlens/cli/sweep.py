"""``make sweep space="{key: values, …}" [exp=NAME] [key=value …]``: search for good values.

``make sweep resume=DIR`` continues a sweep that was stopped, or helps one that is at work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rich.table import Table

from convlens.cli.results import folded, right, screen
from convlens.cli.words import RECIPE, Keys, Word, Words, extract_words, missing_word, read_count
from convlens.config.compose import compose
from convlens.core.command_lines import command_line
from convlens.core.errors import UserError
from convlens.core.files import write_atomic
from convlens.core.processes import is_launched_externally
from convlens.experiment.sweep.plan import FILE, PRUNERS, SAMPLERS, STORAGES, Plan, read_plan
from convlens.pages.sweep import PAGE, SweepResults, write_page
from convlens.rundir.paths import OUTPUTS, check_free, make_folder, make_fresh_folder

WORDS: Words = {
    **RECIPE,
    "space": Word(
        "the values to try: [a,b] some, uniform(a,b) or log(a,b) numbers, int(a,b) or logint(a,b) "
        "whole numbers; such as {optimizer.lr: log(1e-5,1e-2)}",
        form='"{KEY: VALUES, …}"',
    ),
    "trials": Word("how many runs, together with those that others start", form="N", default="20"),
    "jobs": Word("runs at the same time, each on a device of its own", form="N", default="1"),
    "sampler": Word(
        "how values are chosen: tpe (near those that were good so far) or random",
        form="NAME", default="tpe", values=SAMPLERS,
    ),
    "sampler_seed": Word("seed of the sampler; default: that of the runs", form="N"),
    "pruner": Word(
        "which runs stop between epochs: none, median (worse than most were at that epoch) or "
        "halving (all but the best fourth, again and again)",
        form="NAME", default="none", values=PRUNERS,
    ),
    "metric": Word(
        "what to optimise: a result of validation or a score of explanations, or two in brackets",
        form="NAME", default="val/loss",
    ),
    "storage": Word(
        "what Optuna writes: a database, or a journal for network disks",
        form="NAME", default="sqlite", values=STORAGES,
    ),
    "keep": Word("best:N keeps the checkpoints of the N best runs only", form="best:N"),
    "resume": Word("the folder of a sweep to continue", form="DIR"),
    "run_dir": Word("the folder of the sweep; default: a new one in outputs/sweep/", form="DIR"),
}  # fmt: skip
KEYS = Keys(refused=("run_dir", "overwrite", "trainer.fast_dev_run"))
EXAMPLES = (
    'convlens sweep space="{optimizer.lr: log(1e-4,1e-2), training.batch_size: [32,64]}" trials=20',
    "convlens sweep resume=outputs/sweep/2026-11-29_10-00-00",
)
# words that may change when a sweep goes on; the others decide the values of its trials
_FREE = ("resume", "trials", "jobs", "keep")


def run(words: list[str]) -> int:
    if is_launched_externally():
        raise UserError("sweep starts its runs itself: call it without torchrun or srun")
    values, overrides = extract_words(words, WORDS)
    jobs = read_count(values, "jobs")
    home, plan = (_go_on if values["resume"] else _begin)(values, overrides, words)
    from convlens.experiment.sweep.worker import Worker

    worker = Worker(plan, home, jobs, lambda line: print(line, flush=True))
    again = command_line("sweep", resume=home)
    print(f"sweep of {plan.trials} trials in {home}; after a stop: `{again}`")
    try:
        worker.work()
    finally:
        found = worker.collect_results()
        _print_trials(found)
        write_atomic(home / PAGE, write_page(found))
        print(f"page  {home / PAGE}")
    return 0


def _begin(
    values: Mapping[str, str | None], overrides: list[str], _: list[str]
) -> tuple[Path, Plan]:
    """Return the folder and the plan of a new sweep, after everything was checked."""
    if values["space"] is None:
        raise missing_word("sweep", "space", WORDS)
    config = compose(overrides)
    plan = Plan(
        words=tuple(overrides), space=values["space"], trials=read_count(values, "trials"),
        metrics=_read_metrics(values["metric"] or ""), keep=_read_keep(values),
        seed=_read_seed(values, config.seed),
        **{key: _read_name(values, key) for key in ("sampler", "pruner", "storage")},
    )  # fmt: skip
    plan.check()
    check_free(values["run_dir"] or "", FILE)
    if values["run_dir"]:
        make_folder(home := Path(values["run_dir"]).expanduser())
    else:
        home = make_fresh_folder(OUTPUTS / "sweep")
    plan.write(home)
    return home, plan


def _go_on(
    values: Mapping[str, str | None], overrides: list[str], words: list[str]
) -> tuple[Path, Plan]:
    """Return the folder and the plan of a sweep that exists."""
    typed = {word.partition("=")[0] for word in words}
    if others := sorted(typed - {*_FREE}):
        raise UserError(
            f"{others[0]} cannot change: a sweep continues as it began; resume=DIR takes only "
            f"{', '.join(_FREE[1:])}"
        )
    home = Path(values["resume"] or "").expanduser()
    plan = changed = read_plan(home)
    if "trials" in typed:
        changed = replace(changed, trials=read_count(values, "trials"))
    if "keep" in typed:
        changed = replace(changed, keep=_read_keep(values))
    if changed != plan:
        changed.write(home)
    return home, changed


def _read_name(values: Mapping[str, str | None], key: str) -> str:
    value = values[key] or ""
    if value not in WORDS[key].values:
        raise UserError(f"{key}={value}: expected {' or '.join(WORDS[key].values)}")
    return value


def _read_seed(values: Mapping[str, str | None], default: int) -> int:
    text = values["sampler_seed"]
    if text is not None and not text.isdecimal():
        raise UserError(f"sampler_seed={text}: expected a whole number of at least 0")
    return default if text is None else int(text)


def _read_metrics(text: str) -> tuple[str, ...]:
    return tuple(each.strip() for each in text.strip("[]").split(","))


def _read_keep(values: Mapping[str, str | None]) -> int | None:
    text = values["keep"]
    if text is None:
        return None
    kind, _, number = text.partition(":")
    if kind != "best" or not number.isdecimal() or int(number) < 1:
        raise UserError(f"keep={text}: expected best:N, such as keep=best:3")
    return int(number)


def _print_trials(found: SweepResults) -> None:
    table = Table(right("trial"), "end", *map(right, found.metrics), folded("values"))
    for trial in found.trials:
        cells = [f"{value:.4f}" for value in trial.results or ()]
        words = " ".join(
            f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
            for key, value in trial.values.items()
        )
        cells += [""] * (len(found.metrics) - len(cells))
        table.add_row(str(trial.number), trial.state, *cells, words)
    screen().print(table)
