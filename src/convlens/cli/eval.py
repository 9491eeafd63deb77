"""``make eval ckpt=FILE [key=value …]``: test results of a checkpoint, picture by picture.

On its run's own test split; with ``data.dir=OTHER`` on all of another labelled folder. What the run
was trained or validated on is never among the tested images.
"""

from __future__ import annotations

from pathlib import Path

from convlens.cli.results import results_table, seconds_line
from convlens.cli.words import extract
from convlens.config.checks import check_stored
from convlens.config.compose import changed
from convlens.core.errors import UserError
from convlens.core.processes import first_process
from convlens.core.stopwatch import current, timed
from convlens.data.index.unchanged import PLACES
from convlens.experiment.checkpoints import checkpoint_path
from convlens.rundir import log as logs
from convlens.rundir.paths import OUTPUTS, holds_run, make_fresh_folder
from convlens.rundir.read import read_config
from convlens.rundir.write import write_evaluation, write_results


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
    from convlens.experiment.evaluate import evaluate
    from convlens.experiment.summary import seconds_by_name
    from convlens.experiment.unseen import images_to_test
    from convlens.training.survival.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(path)
    stored = checkpoint["hyper_parameters"]["config"]
    _update_places(stored, path)
    check_stored(stored, str(path))
    config = changed(stored, words)
    logs.hush()  # Lightning, imported by now, has given itself a screen
    tested_on = images_to_test(config, checkpoint)
    home = _home(path, tested_on.own)
    if first_process():
        for line in tested_on.lines:
            print(line)
    results = evaluate(config, checkpoint, tested_on, home)
    if not first_process():
        return 0
    epoch = checkpoint["epoch"] + 1
    write_results(
        home,
        {
            "checkpoint": str(path), "epoch": epoch, "data": tested_on.place,
            "images": len(tested_on.data.dataset.splits["test"]), "own_test_split": tested_on.own,
            "test": results,
        },
    )  # fmt: skip
    name = "test" if tested_on.own else tested_on.place
    results_table(f"{path}, after epoch {epoch}", {name: results})
    if path.parent.name == "checkpoints" and tested_on.own:
        seconds = seconds_by_name(current().seconds())
        write_evaluation(path.parent.parent, path, epoch, results, seconds)
    print(seconds_line(seconds_by_name(current().seconds())))
    print(f"predictions, worst mistakes, results.json  {home}")
    return 0


def _update_places(stored: dict, checkpoint: Path) -> None:
    """The run's data may have moved since the checkpoint was written: config.yaml knows where."""
    run_dir = checkpoint.parent.parent
    if checkpoint.parent.name != "checkpoints" or not holds_run(run_dir):
        return
    data, kept = read_config(run_dir).get("data"), stored.get("data")
    if isinstance(data, dict) and isinstance(kept, dict) and data.get("name") == kept.get("name"):
        for key in (place.removeprefix("data.") for place in PLACES):
            if key in kept and key in data:
                kept[key] = data[key]


def _home(checkpoint: Path, own: bool) -> Path:
    """Where its predictions go: beside its run's other files, or a folder of their own.

    Only what was measured on the run's own test split belongs to the run.
    """
    if checkpoint.parent.name != "checkpoints" or not own:
        return make_fresh_folder(OUTPUTS / "eval")
    home = checkpoint.parent.parent / "evaluation" / checkpoint.stem
    home.mkdir(parents=True, exist_ok=True)
    return home
