"""The run folder: where it is, that it is free, and what is written there."""

from __future__ import annotations

import datetime
import json
import os
import shutil
from pathlib import Path

import yaml

from convlens.errors import UserError

# set by the first process for those that a distributed strategy starts from the same words
ENVIRONMENT = "CONVLENS_RUN_DIR"
OUTPUTS = Path("outputs")


def first_process() -> bool:
    """Whether this is the process that writes, of however many a launcher started."""
    return not any(
        int(os.environ.get(name) or 0) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID")
    )


def check(config: dict) -> None:
    """Refuse a run folder early, before anything costly is done.

    Raises:
        UserError: the folder holds a run already, or a file stands where it or a parent should.
    """
    if not config["run_dir"] or not first_process():
        return
    folder = Path(config["run_dir"])
    if holds_run(folder) and not config["overwrite"]:
        raise UserError(
            f"run_dir={folder} already holds a run: continue it with `make resume "
            f"run={folder}`, choose another run_dir, or say overwrite=true"
        )
    for part in (folder, *folder.parents):
        if part.exists() and not part.is_dir():
            raise UserError(
                f"run_dir={folder} cannot be made: {part} is a file; choose another run_dir"
            )


def claim(config: dict) -> Path:
    """Make the folder of a new run and return it; later processes take the first one's.

    Raises:
        UserError: the folder holds a run already, or cannot be made.
    """
    if not first_process():
        given = os.environ.get(ENVIRONMENT) or config["run_dir"]
        if not given:
            raise UserError("run_dir=… has to be given when something else starts the processes")
        return Path(given)
    check(config)
    if config["run_dir"]:
        folder = Path(config["run_dir"])
        _make(folder)
        if holds_run(folder):
            _clear(folder)
    else:
        folder = _fresh(OUTPUTS / config["experiment"])
    os.environ[ENVIRONMENT] = str(folder)
    return folder


def holds_run(folder: Path) -> bool:
    return (folder / "config.yaml").exists()


def _fresh(parent: Path) -> Path:
    """A new folder named by date and time; a second run of the same second gets a number."""
    stamp = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    _make(parent)
    number = 1
    while True:
        folder = parent / (stamp if number == 1 else f"{stamp}_{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"run_dir={folder} cannot be made ({error.strerror}: {error.filename}); "
            f"choose another run_dir"
        ) from error


def _clear(folder: Path) -> None:
    """Remove what a run writes, and nothing else that may lie in the folder."""
    for name in ("tensorboard", "explanations", "checkpoints", "probes"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("config.yaml", "metrics.csv", "summary.json", "train.log", "split.csv"):
        (folder / name).unlink(missing_ok=True)


def write_config(folder: Path, config: dict) -> None:
    _replace(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))


def read_config(folder: Path) -> dict:
    """The resolved config of a run.

    Raises:
        UserError: the folder holds no run.
    """
    file = folder / "config.yaml"
    if not folder.is_dir():
        raise UserError(f"there is no run folder {folder}; runs lie in {OUTPUTS}/")
    if not file.exists():
        raise UserError(f"{folder} holds no run: it has no config.yaml")
    try:
        config = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{file} is no readable config ({str(error).splitlines()[0]})") from error
    if not isinstance(config, dict) or "experiment" not in config:
        raise UserError(f"{file} is not the config of a run")
    return config


def write_summary(folder: Path, summary: dict) -> None:
    _replace(folder / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n")


def newest_run() -> Path:
    """The run that was started last, for ``run=last`` and ``ckpt=last``.

    Raises:
        UserError: there is none.
    """
    runs = [file.parent for file in OUTPUTS.rglob("config.yaml")]
    if not runs:
        raise UserError(f"there is no run in {OUTPUTS}/ yet; `make train` makes one")
    return max(runs, key=lambda folder: (folder / "config.yaml").stat().st_mtime_ns)


def _replace(file: Path, text: str) -> None:
    beside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, file)


def write_evaluation(home: Path, checkpoint: Path, epoch: int, results: dict[str, float]) -> None:
    """Put the results of ``make eval`` into the run's ``summary.json``, under ``evaluations``."""
    file = home / "summary.json"
    try:
        summary = json.loads(file.read_text())
    except (OSError, ValueError):
        return  # the run is not finished; its own end will write the summary
    found = {"epoch": epoch, "test": results}
    summary.setdefault("evaluations", {})[checkpoint.name] = found
    write_summary(home, summary)
