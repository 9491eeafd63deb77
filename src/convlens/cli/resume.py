"""``make resume run=RUN_DIR [training.epochs=N …]``: go on, longer too, wherever the images lie."""

from __future__ import annotations

from pathlib import Path

from convlens.cli.results import closing
from convlens.cli.words import extract
from convlens.config.checks import restore_config
from convlens.core.errors import UserError, nearest
from convlens.core.processes import is_first_process
from convlens.core.stopwatch import with_stopwatch
from convlens.experiment.resume import Start, asks_for_more, resumed_config
from convlens.rundir.lock import Hold
from convlens.rundir.read import read_config
from convlens.rundir.runs import find_newest_run


@with_stopwatch
def run(words: list[str]) -> int:
    given, words = extract(words, "run", "run_dir")
    asked = given["run"] or given["run_dir"]
    if asked is None:
        key = words[0].partition("=")[0] if words else ""
        typed = f"{key}: {nearest(key, ('run', 'run_dir'))}; " if key else ""
        raise UserError(f"{typed}resume needs run=…, for example `make resume run=last`")
    home = find_newest_run() if asked == "last" else Path(asked).expanduser()
    config = restore_config(read_config(home).plain, str(home / "config.yaml"), words)
    wanted = resumed_config(config, words)
    last = home / "checkpoints" / "last.ckpt"
    if (home / "summary.json").exists() and last.exists():
        from convlens.training.survival.checkpoint import read_checkpoint

        if not asks_for_more(config, wanted, Start(last, read_checkpoint(last))):
            if is_first_process():
                _finished(home)
            return 0
    from convlens.experiment.train import train

    home, summary = train(wanted, resume=home)
    if is_first_process():
        closing(home, summary)
    return 0


def _finished(home: Path) -> None:
    """Say so; only the page may be missing of a run that was killed behind its summary."""
    if not (home / "report.html").exists():
        from convlens.pages.report import report

        with Hold() as hold:
            hold.take(home)  # half a page, of a process that was killed amid writing it, goes
            report(home)
    print(f"{home} is finished: nothing to do")
