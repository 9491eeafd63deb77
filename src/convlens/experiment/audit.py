"""Audit the labels of a run: a cut below which they are probably wrong, with a stated rate.

The run's recipe is trained twice more, on labels of which some are certainly wrong: see
``convlens.data.sources.threshold``. In the second training others are, so that every image is
judged. These trainings are runs of their own, in ``audit/1`` and ``audit/2`` of the run folder:
their further class never meets the run, its network or its results.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from convlens.config.checks import replace_values, restore_config
from convlens.config.migrate import dump_yaml
from convlens.config.schema import OWN_HEAD, Config
from convlens.core.command_lines import command_line
from convlens.core.errors import Interrupted, UserError
from convlens.core.files import open_atomic, write_atomic
from convlens.data.index.tables import format_csv_line, read_table
from convlens.data.sources.corrections import COPY
from convlens.data.sources.threshold import CLASS_NAME, PARTS
from convlens.experiment.multirun import run_apart
from convlens.rundir.read import read_config
from convlens.training.diary.threshold import Judged, judge

FILE, FOLDER, DIARY = "mislabelled.csv", "audit", "diary.csv"
COLUMNS = ("file", "class", "aum", "cut", "other", "suspected")


@dataclass(frozen=True)
class Audit:
    """What an audit has found.

    Attributes:
        file: ``mislabelled.csv``.
        labels: the training labels, the farthest below their cut first.
        cuts: of the two trainings.
    """

    file: Path
    labels: list[Judged]
    cuts: list[float]

    @property
    def suspected(self) -> int:
        """How many labels are suspected."""
        return sum(each.is_suspected for each in self.labels)


def audit(home: Path, catch: str) -> Audit:
    """Train what is missing of the two trainings, and write ``mislabelled.csv``.

    Args:
        home: the run folder.
        catch: fraction of the certainly wrong labels that the cut must catch, in (0, 1).

    Raises:
        UserError: there is no run, it has no diary, images may have several classes or are not
            files, ``catch`` is something else, or a training failed.
        Interrupted: Ctrl-C; the same command continues.
    """
    fraction = _read_fraction(catch)
    plans = {part: _plan(home, part) for part in PARTS}
    tables = []
    for part, config in plans.items():
        folder = Path(config.run_dir or "")
        _claim(folder, config)
        if not (folder / "summary.json").exists():
            _train(folder, part)
        columns = ("file", "class", "aum", "other")
        rows = read_table(folder / DIARY, columns, DIARY, strip=False)
        tables.append([row for _, row in rows])
    labels, cuts = judge(tables, CLASS_NAME, fraction)
    with open_atomic(home / FILE, errors="surrogateescape", newline="") as table:
        table.writelines(map(format_csv_line, (COLUMNS, *map(_format, labels))))
    return Audit(home / FILE, labels, cuts)


def _read_fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise UserError(f"catch={text}: expected a fraction between 0 and 1, such as 0.99")
    return value


def _plan(home: Path, part: int) -> Config:
    """Return the config of one training: that of the run, with a class of threshold samples."""
    config = restore_config(read_config(home).plain, str(home / "config.yaml"))
    if not config.diary:
        raise UserError(f"{home}: diary=null kept no diary, which an audit reads; train with one")
    if config.data.has_several_classes:
        raise UserError(f"{home}: an audit needs one class per image")
    if not (home / "split.csv").is_file():
        raise UserError(f"{home}: its images are not files, which an audit needs")
    if config.model.head == OWN_HEAD:
        raise UserError(f"{home}: the classes of its head are ImageNet's, which has no further one")
    plain = config.plain()
    values = {
        "run_dir": str(home / FOLDER / str(part)), "overwrite": False,
        "data.threshold_samples": part,
        "callbacks": {"budget": plain["callbacks"]["budget"]}, "diary.rows": False,
        "logger": {"tensorboard": False},
    }  # fmt: skip
    if config.training.loss == "binary":  # one logit cannot tell the further class apart
        values["training.loss"] = "cross_entropy"
    if config.training.class_weights is not None:
        values["training.class_weights"] = "balanced"
    if config.data.corrections and (home / COPY).is_file():
        values["data.corrections"] = str(home / COPY)
    return replace_values(config, values)


def _claim(folder: Path, config: Config) -> None:
    """Make the folder of a training, unless it is there; remove one of another recipe."""
    asked, text = folder.with_suffix(".yaml"), dump_yaml(config)
    if asked.is_file() and asked.read_text(encoding="utf-8") == text and folder.is_dir():
        return
    if folder.is_dir():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    write_atomic(folder / "config.yaml", text)
    write_atomic(asked, text)


def _train(folder: Path, part: int) -> None:
    """Train, or continue to train, in processes of its own.

    Raises:
        UserError: it failed.
        Interrupted: Ctrl-C.
    """
    status, is_stopped = run_apart(["resume", f"run={folder}"])
    if is_stopped:
        raise Interrupted(f"interrupted in training {part} of {len(PARTS)} of the audit")
    if status or not (folder / DIARY).is_file():
        again = command_line("resume", run=folder)
        raise UserError(f"training {part} of the audit failed: `{again}` shows why")


def _format(each: Judged) -> tuple[str, ...]:
    aum = "" if each.aum != each.aum else f"{each.aum:.6g}"
    suspected = "yes" if each.is_suspected else ""
    return each.file, each.label, aum, f"{each.cut:.6g}", each.other, suspected
