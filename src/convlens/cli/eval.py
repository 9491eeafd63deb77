"""``make eval ckpt=FILE [key=value …]``: test results of a checkpoint, picture by picture.

On its run's own test split; with ``data.dir=OTHER`` on all of another labelled folder. What the run
was trained or validated on is never among the tested images.
"""

from __future__ import annotations

from pathlib import Path

from convlens import folder, logs
from convlens.cli.results import results_table, seconds_line
from convlens.cli.words import extract
from convlens.config import changed
from convlens.config_checks import check_stored
from convlens.data.unchanged import PLACES
from convlens.errors import UserError
from convlens.stopwatch import current, timed


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
    from convlens.evaluation import evaluate
    from convlens.summary import seconds_by_name
    from convlens.tested import images_to_test
    from convlens.training.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(path)
    stored = checkpoint["hyper_parameters"]["config"]
    _update_places(stored, path)
    check_stored(stored, str(path))
    config = changed(stored, words)
    logs.hush()  # Lightning, imported by now, has given itself a screen
    tested_on = images_to_test(config, checkpoint)
    home = _home(path, tested_on.own)
    if folder.first_process():
        for line in tested_on.lines:
            print(line)
    results = evaluate(config, checkpoint, tested_on, home)
    if not folder.first_process():
        return 0
    epoch = checkpoint["epoch"] + 1
    folder.write_results(
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
        folder.write_evaluation(path.parent.parent, path, epoch, results, seconds)
    print(seconds_line(seconds_by_name(current().seconds())))
    print(f"predictions, worst mistakes, results.json  {home}")
    return 0


def _update_places(stored: dict, checkpoint: Path) -> None:
    """The run's data may have moved since the checkpoint was written: config.yaml knows where."""
    run_dir = checkpoint.parent.parent
    if checkpoint.parent.name != "checkpoints" or not folder.holds_run(run_dir):
        return
    data, kept = folder.read_config(run_dir).get("data"), stored.get("data")
    if isinstance(data, dict) and isinstance(kept, dict) and data.get("name") == kept.get("name"):
        for key in (place.removeprefix("data.") for place in PLACES):
            if key in kept and key in data:
                kept[key] = data[key]


def _home(checkpoint: Path, own: bool) -> Path:
    """Where its predictions go: beside its run's other files, or a folder of their own.

    Only what was measured on the run's own test split belongs to the run.
    """
    if checkpoint.parent.name != "checkpoints" or not own:
        return folder.fresh(folder.OUTPUTS / "eval")
    home = checkpoint.parent.parent / "evaluation" / checkpoint.stem
    home.mkdir(parents=True, exist_ok=True)
    return home


def checkpoint_path(asked: str | None, home: str | None) -> Path:
    """The checkpoint that ``ckpt=`` or ``run=`` names; for a run, its best.

    ``last`` is the newest run that has one, ``example`` the network that comes with the package.
    """
    from convlens.asking import EXAMPLE, EXAMPLE_NAME

    if asked == EXAMPLE_NAME:
        return EXAMPLE / "shapes.ckpt"
    if asked not in (None, "last"):
        return Path(asked).expanduser()
    newest = asked == "last" or home == "last"
    best = Path("checkpoints") / "best.ckpt"
    return (folder.newest_run(str(best)) if newest else Path(home).expanduser()) / best
