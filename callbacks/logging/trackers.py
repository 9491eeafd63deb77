"""Logs everything of a run to its trackers exactly once, even if the run was killed."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as L
from convlens.callbacks.logging.journal import Journal
from convlens.callbacks.logging.table import Table
from convlens.callbacks.logging.tracker import Part, Tracker
from pytorch_lightning.loggers import Logger

log = logging.getLogger("convlens")
KEY = "convlens_logged"  # of a checkpoint: the size of the journal when it was written


class Trackers(Logger):
    """The Lightning logger of a run with trackers; only the first process has it.

    Everything that is logged is recorded in a journal. When a run is resumed, the journal is cut
    back to the checkpoint, and entries that a tracker lacks are logged again from it. Entries of
    the repeated epoch that a tracker already has are not logged again, because a resumed run
    repeats the same values.

    A tracker that fails is reported once, and nothing more is logged to it; training continues.

    Args:
        home: the run folder, which contains the files of all pictures.
        journal: the journal.
        trackers: the open trackers.
    """

    def __init__(self, home: Path, journal: Journal, trackers: Sequence[Tracker]):
        super().__init__()
        self.home, self.trackers, self._journal = home, list(trackers), journal
        self._lost: dict[Tracker | Journal, str] = {}  # why entries are missing
        # by name and step: how often a tracker has it already, so that it must be left out
        self._known: dict[Tracker, Counter[tuple[str, int]]] = {}
        for tracker in self.trackers:
            self._try(tracker, self._complete, tracker)

    def _complete(self, tracker: Tracker) -> None:
        """Log what a tracker lacks of the journal."""
        known = tracker.find_logged()
        self._known[tracker] = Counter(known)
        for entry in self._journal.entries if known is not None else ():
            self._send(tracker, entry)

    @property
    def name(self) -> str:
        """The trackers' names."""
        return ", ".join(tracker.name for tracker in self.trackers)

    @property
    def version(self) -> str:
        """Nothing: each tracker has a name of its own for the run."""
        return ""

    @property
    def failures(self) -> list[str]:
        """Why a tracker lacks something, one line each."""
        return list(self._lost.values())

    # --- what is logged

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: a tracker gets the config when it is opened."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Log numbers by tag."""
        numbers = {tag: float(value) for tag, value in metrics.items()}
        self._log({"step": step or 0, "numbers": numbers})

    def log_picture(self, tag: str, file: Path, step: int) -> None:
        """Log a picture, a JPEG file in the run folder."""
        path = file.relative_to(self.home).as_posix()
        self._log({"step": step, "tag": tag, "picture": path})

    def log_text(self, tag: str, text: str, step: int) -> None:
        """Log a line of text."""
        self._log({"step": step, "tag": tag, "text": text})

    def log_table(self, tag: str, table: Table, step: int) -> None:
        """Log a table."""
        content = {"columns": list(table.columns), "rows": [list(row) for row in table.rows]}
        self._log({"step": step, "tag": tag, "table": content})

    def _log(self, entry: dict[str, Any]) -> None:
        self._try(self._journal, self._journal.append, entry)
        for tracker in self.trackers:
            self._try(tracker, self._send, tracker, entry)

    def _send(self, tracker: Tracker, entry: dict[str, Any]) -> None:
        step, tag = entry["step"], entry.get("tag", "")
        if "numbers" in entry:
            values = entry["numbers"]
            if fresh := {key: values[key] for key in values if self._is_new(tracker, key, step)}:
                tracker.log_numbers(fresh, step)
        elif not self._is_new(tracker, tag, step):
            return
        elif "picture" in entry:
            tracker.log_picture(tag, self.home / entry["picture"], step)
        elif "text" in entry:
            tracker.log_text(tag, entry["text"], step)
        else:
            tracker.log_table(tag, Table(**entry["table"]), step)

    def _is_new(self, tracker: Tracker, tag: str, step: int) -> bool:
        """Return whether a tracker lacks an entry; the look at the end repeats tags of an epoch."""
        known, item = self._known[tracker], (tracker.rename(tag), step)
        if known[item] <= 0:
            return True
        known[item] -= 1
        return False

    # --- the end

    def save(self) -> None:
        """Flush all trackers."""
        for tracker in self.trackers:
            self._try(tracker, tracker.flush)

    def measure(self) -> int:
        """Return the size of the journal for a checkpoint; all trackers are flushed before."""
        self.save()
        return self._journal.size

    def log_file(self, part: Part, file: Path) -> None:
        """Log a file that the run ends with, if it was written."""
        if file.exists():
            for tracker in self.trackers:
                self._try(tracker, tracker.log_file, part, file)

    def close(self, *, finished: bool) -> None:
        """End the run in all trackers; ``finished`` is False if it was interrupted or failed."""
        for tracker in self.trackers:
            if tracker in self._lost:  # it may still hold a process or a connection
                with contextlib.suppress(Exception):
                    tracker.close(finished)
            self._try(tracker, tracker.close, finished)
        self._try(self._journal, self._journal.close)

    def _try(self, part: Tracker | Journal, act: Callable[..., object], *arguments: Any) -> None:
        """Call a method of a tracker or of the journal, unless it has failed before."""
        if part in self._lost:
            return
        try:
            act(*arguments)
        except Exception as error:  # a service may raise anything; the training must go on
            name = part.name if isinstance(part, Tracker) else "trackers/journal.jsonl"
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            self._lost[part] = f"{name} is incomplete: {reason[:120]}"
            log.warning("%s; training continues", self._lost[part])
            log.debug("traceback", exc_info=True)


class JournalMark(L.Callback):
    """Keeps the size of the journal in each checkpoint; it must come after the epoch log.

    Args:
        trackers: the logger whose journal it is.
    """

    def __init__(self, trackers: Trackers):
        self.trackers = trackers

    def on_save_checkpoint(self, trainer, pl_module, checkpoint: dict) -> None:
        checkpoint[KEY] = self.trackers.measure()
