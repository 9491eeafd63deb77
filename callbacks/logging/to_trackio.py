"""Trackio as a tracker, in a local folder; ``trackio sync`` uploads it."""

from __future__ import annotations

import contextlib
import io
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from convlens.callbacks.logging.table import Table
from convlens.callbacks.logging.tracker import Part, Tracker

_ROWS = ("step", "timestamp")  # what trackio adds to each entry


class TrackioTracker(Tracker):
    """A run of trackio.

    ``trackio.init`` would ask Hugging Face for the user's name, finish other runs of the process
    and print; the run is made without it.

    Args:
        folder: trackio's folder, which may hold the runs of many; it is created.
        project: name of the project.
        title: name of the run.
        config: the run's config.
        run_id: the run to continue; None for a new one.
    """

    name = "trackio"

    def __init__(
        self, folder: Path, *, project: str, title: str, config: Mapping[str, Any],
        run_id: str | None,
    ):  # fmt: skip
        folder = folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        import trackio
        from trackio.run import Run
        from trackio.sqlite_storage import SQLiteStorage

        _use_folder(folder)

        class LocalRun(Run):
            """A run that makes no requests, and raises errors that trackio would only print."""

            problem = ""

            def _get_username(self) -> None:
                return None

            def _warn_once(self, key: str, message: str) -> None:
                self.problem = self.problem or message

        SQLiteStorage.validate_project_name(project)
        self._trackio, self._storage, self.place = trackio, SQLiteStorage, str(folder)
        self.run_id = run_id or uuid.uuid4().hex
        self._project = project
        self._run = LocalRun(
            url=None, project=project, client=None, name=title, run_id=self.run_id,
            config=dict(config),
        )  # fmt: skip
        self._check()

    def _check(self) -> None:
        if self._run.problem:
            raise OSError(self._run.problem)

    def find_logged(self) -> Iterator[tuple[str, int]]:
        """Yield what is in trackio's database."""
        for entry in self._storage.get_logs(self._project, run_id=self.run_id):
            yield from ((tag, entry["step"]) for tag in entry if tag not in _ROWS)

    def _log(self, values: Mapping[str, Any], step: int) -> None:
        self._run.log(dict(values), step=step)
        self._check()

    def log_numbers(self, values: Mapping[str, float], step: int) -> None:
        self._log(values, step)

    def log_picture(self, tag: str, file: Path, step: int) -> None:
        self._log({tag: self._trackio.Image(str(file), caption=f"epoch {step}")}, step)

    def log_text(self, tag: str, text: str, step: int) -> None:
        self._log({tag: self._trackio.Markdown(text)}, step)

    def log_table(self, tag: str, table: Table, step: int) -> None:
        rows = [list(row) for row in table.rows]
        self._log({tag: self._trackio.Table(columns=list(table.columns), data=rows)}, step)

    def log_file(self, part: Part, file: Path) -> None:
        self._run.log_artifact(str(file), name=f"{part}-{self.run_id}", type=part)

    def flush(self) -> None:
        """Write what waits for trackio's thread, which writes every half second."""
        with self._run._client_lock:
            self._run._flush_queues_inline()
        self._check()

    def close(self, finished: bool = False) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self._run.finish()
        self._check()


def _use_folder(folder: Path) -> None:
    """Let trackio use a folder; its modules keep the one that they were imported with."""
    places = {"TRACKIO_DIR": folder, "MEDIA_DIR": folder / "media"}
    places["ARTIFACTS_DIR"] = folder / "artifacts"
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "trackio":
            for place in places.keys() & vars(module).keys():
                setattr(module, place, places[place])
