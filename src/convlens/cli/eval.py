"""``make eval ckpt=FILE [key=value …]``: test results of a checkpoint, picture by picture.

On its run's own test split; with ``data.dir=OTHER`` on all of another labelled folder. What the run
was trained or validated on is never among the tested images.
"""

from __future__ import annotations

from convlens.cli.results import results_table, seconds_line
from convlens.cli.words import extract
from convlens.core.errors import UserError
from convlens.core.processes import is_first_process
from convlens.core.stopwatch import with_stopwatch
from convlens.experiment.inputs import checkpoint_path
from convlens.rundir import log as logs


@with_stopwatch
def run(words: list[str]) -> int:
    asked, words = extract(words, "ckpt", "run")
    ckpt, home = asked.values()
    if ckpt is None and home is None:
        raise UserError("eval needs ckpt=FILE or run=RUN_DIR; last is the newest run")
    if ckpt is not None and home is not None:
        raise UserError(f"ckpt={ckpt} run={home}: both name a checkpoint; leave one of them out")
    path = checkpoint_path(ckpt, home)
    from convlens.experiment.evaluate import evaluate
    from convlens.experiment.summary import seconds_by_name

    logs.silence_libraries()  # Lightning, imported by now, has given itself a screen
    found = evaluate(path, words, print)
    if is_first_process():
        name = "test" if found.tested_on.own else found.tested_on.place
        results_table(f"{path}, after epoch {found.epoch}", {name: found.results})
        print(seconds_line(seconds_by_name()))
        print(f"predictions, worst mistakes, results.json  {found.home}")
    return 0
