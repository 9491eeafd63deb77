"""``make resume run=RUN_DIR [key=value …]``: continue a run, even for longer or with moved data."""

from __future__ import annotations

from pathlib import Path

from convlens.cli.results import print_closing
from convlens.cli.words import RECIPE, Keys, Word, Words, extract_words, missing_word
from convlens.config.checks import restore_config
from convlens.core.errors import UserError, nearest
from convlens.core.loading import loading_libraries
from convlens.core.processes import is_first_process
from convlens.core.stopwatch import with_stopwatch
from convlens.experiment.resume import FREE, Start, build_resumed_config, has_work_left
from convlens.rundir.lock import Hold
from convlens.rundir.read import read_config
from convlens.rundir.runs import find_newest_run

WORDS: Words = {
    "run": Word(
        "the run folder; last is the newest run",
        form="RUN_DIR", required=True, synonyms=("run_dir",),
    ),
    "config_dir": RECIPE["config_dir"],
}  # fmt: skip
KEYS = Keys(FREE, refused=("trainer.fast_dev_run",), is_composed=False)
NOTES = (
    "With as many processes as before the result is the same bits; another number is said.",
    "In a schedule with phases, the epochs of the last phase may change too, such as",
    "finetune.phases.1.epochs=20 if it has two phases (they are numbered from 0).",
)


@with_stopwatch
def run(words: list[str]) -> int:
    values, overrides = extract_words(words, WORDS)
    name = values["run"]
    if name is None:
        error = missing_word("resume", "run", WORDS)
        if overrides:  # perhaps it was misspelt
            key = overrides[0].partition("=")[0]
            raise UserError(f"{key}: {nearest(key, WORDS)}; {error}")
        raise error
    home = find_newest_run() if name == "last" else Path(name).expanduser()
    config = restore_config(read_config(home).plain, str(home / "config.yaml"), overrides)
    changed_config = build_resumed_config(config, overrides)
    last = home / "checkpoints" / "last.ckpt"
    if (home / "summary.json").exists() and last.exists():
        from convlens.training.survival.checkpoint import read_checkpoint

        if not has_work_left(config, changed_config, Start(last, read_checkpoint(last))):
            if is_first_process():
                _finish(home)
            return 0
    with loading_libraries():
        from convlens.experiment.train import train

    home, summary = train(changed_config, resume=home)
    if is_first_process():
        print_closing(home, summary)
    return 0


def _finish(home: Path) -> None:
    """Report that a run is finished; first write its page if it was killed before that."""
    if not (home / "report.html").exists():
        from convlens.pages.report import report

        with Hold() as hold:
            hold.take(home)  # also removes a partial page of a killed process
            report(home)
    print(f"{home} is finished: nothing to do")
