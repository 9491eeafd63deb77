"""``make eval ckpt=FILE [key=value …]``: test-set results of a checkpoint, picture by picture."""

from __future__ import annotations

from pathlib import Path

from convlens import folder, logs
from convlens.cli.results import results_table
from convlens.cli.words import extract
from convlens.config import changed
from convlens.config_checks import check_stored
from convlens.errors import UserError


def run(words: list[str]) -> int:
    logs.speak()
    asked, words = extract(words, "ckpt")
    home, words = extract(words, "run")
    if asked is None and home is None:
        raise UserError("eval needs ckpt=FILE or run=RUN_DIR; last is the newest run")
    path = checkpoint_path(asked, home)
    from convlens.evaluation import evaluate
    from convlens.training.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(path)
    stored = checkpoint["hyper_parameters"]["config"]
    check_stored(stored, str(path))
    config = changed(stored, words)
    logs.hush()  # Lightning, imported by now, has given itself a screen
    home = _home(path)
    results = evaluate(config, checkpoint, home)
    epoch = checkpoint["epoch"] + 1
    results_table(f"{path}, after epoch {epoch}", {"test": results})
    if path.parent.name == "checkpoints":
        folder.write_evaluation(path.parent.parent, path, epoch, results)
    print(f"predictions and worst mistakes  {home}")
    return 0


def _home(checkpoint: Path) -> Path:
    """Where its predictions go: beside its run's other files, or a folder of their own."""
    if checkpoint.parent.name != "checkpoints":
        return folder.fresh(folder.OUTPUTS / "eval")
    home = checkpoint.parent.parent / "evaluation" / checkpoint.stem
    home.mkdir(parents=True, exist_ok=True)
    return home


def checkpoint_path(asked: str | None, home: str | None) -> Path:
    """The file that ``ckpt=`` and ``run=`` speak of; a run's is its best."""
    if asked not in (None, "last"):
        return Path(asked).expanduser()
    newest = asked == "last" or home == "last"
    run_dir = folder.newest_run() if newest else Path(home).expanduser()
    return run_dir / "checkpoints" / "best.ckpt"
