"""What a run folder holds, read for its page."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from convlens.core.errors import UserError
from convlens.rundir.runs import KeptRun, best_of, read_run

_STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
_ALARM = re.compile(r" WARNING convlens: (alarm after epoch \d+: .*)")
_LOOK = re.compile(r"epoch_(\d+)")


@dataclass(frozen=True)
class Record:
    """A run as far as it went.

    Attributes:
        home: its folder.
        config: resolved; ``config_text`` as it stands in the file.
        rows: of ``metrics.csv``, by completed epochs from 0; each has ``epoch`` and those scalars
            that were measured.
        summary: None of a run that is not finished.
        pictures: tag to file by completed epochs, both rising.
        probes: name to where the picture comes from.
        alarms: what the log told, one line each: of a run that is not finished there is no summary
            to tell them.
        began: first line of the log; without a log, the time of the config.
    """

    home: Path
    config: Mapping
    config_text: str
    rows: list[dict[str, float]]
    summary: Mapping | None
    pictures: Mapping[str, Mapping[int, Path]]
    probes: Mapping[str, str]
    alarms: list[str]
    began: datetime.datetime

    @property
    def epochs(self) -> int:
        """Completed ones."""
        return int(self.rows[-1]["epoch"])

    @property
    def best(self) -> int | None:
        """The trained epoch of the lowest validation loss; None before the first is complete."""
        found = best_of(self.rows)
        return None if found is None else int(found["epoch"])

    def curve(self, tag: str) -> dict[int, float]:
        """One scalar by epoch, where it was measured."""
        return {int(row["epoch"]): row[tag] for row in self.rows if tag in row}

    def results(self, stage: str, epoch: int) -> dict[str, float]:
        """The scalars ``<stage>/…`` of an epoch, without the stage."""
        row = next((row for row in self.rows if row["epoch"] == epoch), {})
        start = f"{stage}/"
        return {key.removeprefix(start): v for key, v in row.items() if key.startswith(start)}


def read_record(home: Path) -> Record:
    """Read a run folder.

    Raises:
        UserError: it holds no run, no epoch yet, or a file that cannot be read.
    """
    run = read_run(home)
    if not run.rows:
        raise UserError(
            f"{home} has no row in metrics.csv yet: the network before training comes first; "
            f"wait for it, or start again with `make resume run={home}`"
        )
    log = home / "train.log"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    pictures = _pictures(home / "explanations")
    return Record(
        home, run.config, (home / "config.yaml").read_text(encoding="utf-8"), run.rows, run.summary,
        pictures, _probes(home / "probes" / "probes.tsv", pictures),
        [found[1] for line in lines if (found := _ALARM.search(line))], _began(lines, run),
    )  # fmt: skip


def _pictures(folder: Path) -> dict[str, dict[int, Path]]:
    """Every picture below ``epoch_<completed epochs>/``, by its tag."""
    found: dict[str, dict[int, Path]] = {}
    for look in folder.glob("epoch_*"):
        if not (number := _LOOK.fullmatch(look.name)):
            continue
        for file in look.rglob("*.jpg"):
            tag = file.relative_to(look).as_posix().removesuffix(".jpg")
            found.setdefault(tag, {})[int(number[1])] = file
    return {tag: dict(sorted(files.items())) for tag, files in sorted(found.items())}


def _probes(file: Path, pictures: Mapping[str, object]) -> dict[str, str]:
    if not file.is_file():  # a folder from which only the explanations were kept
        tags = [tag.split("/") for tag in pictures]
        return {parts[1]: "" for parts in tags if parts[0] == "grad_cam" and len(parts) == 2}
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()[1:]
    return {name: source for name, _, source in (line.partition("\t") for line in lines)}


def _began(lines: list[str], run: KeptRun) -> datetime.datetime:
    stamp = next((found[0] for line in lines if (found := _STAMP.match(line))), None)
    return run.started if stamp is None else datetime.datetime.fromisoformat(stamp)
