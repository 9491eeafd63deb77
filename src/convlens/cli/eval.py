"""``make eval ckpt=FILE [key=value …]``: test results of a checkpoint, picture by picture.

On its run's own test split; with ``data.dir=OTHER`` on all of another labelled folder. What the run
was trained or validated on is never among the tested images.
"""

from __future__ import annotations

from convlens.cli.results import results_table, seconds_line
from convlens.cli.words import extract
from convlens.core.errors import UserError
from convlens.core.processes import first_process
from convlens.core.stopwatch import current, timed
from convlens.experiment.checkpoints import checkpoint_path
from convlens.rundir import log as logs


@timed
def run(words: list[str]) -> int:
    logs.speak()
    asked, words = extract(words, "ckpt")
    home, words = extract(words, "run")
    if asked is None and home is None:
        raise UserError("eval needs ckpt=FILE or run=RUN_DIR; last is the newest run")
    if asked is not None and home is not None:
        raise UserError(f"ckpt={asked} run={home}: both name a checkpoint; leave one of them out")
    path = checkpoint_path(asked, home)
    from convlens.experiment.evaluate import evaluate, evaluation_of
    from convlens.experiment.summary import seconds_by_name

    logs.hush()  # Lightning, imported by now, has given itself a screen
    evaluation = evaluation_of(path, words)
    tested_on = evaluation.tested_on
    if first_process():
        for line in tested_on.lines:
            print(line)
    results = evaluate(evaluation)
    if not first_process():
        return 0
    name = "test" if tested_on.own else tested_on.place
    results_table(f"{path}, after epoch {evaluation.epoch}", {name: results})
    print(seconds_line(seconds_by_name(current().seconds())))
    print(f"predictions, worst mistakes, results.json  {evaluation.home}")
    return 0
