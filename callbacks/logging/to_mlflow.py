"""MLflow as a tracker."""

from __future__ import annotations

import hashlib
import logging
import os
import posixpath
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from convlens.callbacks.logging.table import Table
from convlens.callbacks.logging.tracker import Part, Tracker, flatten

_PICTURE = re.compile(r"images/(?P<key>.+)\+step\+(?P<step>\d+)\+timestamp\+.*(?<!\+compressed)")
_BATCH = 100  # parameters that MLflow takes at once
_LONGEST = 140  # characters of a name: the file of a picture has 90 more, and at most 255
_LONGEST_VALUE = 6000  # characters of a parameter


class MlflowTracker(Tracker):
    """A run of MLflow.

    Numbers are metrics and pictures are images with a step, both shown as charts. Tables are
    artifacts, ``tables/<name>/epoch_<n>.csv``. A text is the tag of the same name.

    Args:
        uri: the tracking server, or the database.
        artifacts: where the files of a new experiment are kept; None: where the server says.
        experiment: name of the experiment.
        title: name of the run.
        config: the run's config.
        run_id: the run to continue; None for a new one.
    """

    name = "mlflow"

    def __init__(
        self, uri: str, *, artifacts: str | None, experiment: str, title: str,
        config: Mapping[str, Any], run_id: str | None,
    ):  # fmt: skip
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it would send statistics of use
        import mlflow

        for library in ("mlflow", "alembic"):  # they print each step of creating a database
            logging.getLogger(library).setLevel(logging.WARNING)
        self._mlflow, self._client = mlflow, mlflow.MlflowClient(tracking_uri=uri)
        self.place = uri
        if run_id is None:
            found = self._client.get_experiment_by_name(experiment)
            number = (
                found.experiment_id if found
                else self._client.create_experiment(experiment, artifact_location=artifacts)
            )  # fmt: skip
            run_id = self._client.create_run(number, run_name=title).info.run_id
        else:
            self._client.update_run(run_id, status="RUNNING")
        self.run_id: str = run_id
        self._log_parameters(flatten(config))

    def _log_parameters(self, values: Mapping[str, Any]) -> None:
        """Log the config, but for what the run has already: MLflow never changes a parameter."""
        known = self._client.get_run(self.run_id).data.params
        names = {self.rename(key): str(value)[:_LONGEST_VALUE] for key, value in values.items()}
        fresh = [
            self._mlflow.entities.Param(name, value)
            for name, value in names.items() if name not in known
        ]  # fmt: skip
        for start in range(0, len(fresh), _BATCH):
            self._client.log_batch(self.run_id, params=fresh[start : start + _BATCH])

    def rename(self, tag: str) -> str:
        """Return a tag if MLflow accepts it as a name; otherwise a similar one, with a digest."""
        name = re.sub(r"[^A-Za-z0-9_\-./ ]", "_", tag)
        if posixpath.normpath(name) != name or name.startswith(("/", "..")):
            name = name.replace("/", "_").replace("..", "__")
        if name == tag and len(name) <= _LONGEST:
            return tag
        digest = hashlib.sha256(tag.encode()).hexdigest()[:6]
        return f"{name[: _LONGEST - 7]}-{digest}"

    def find_logged(self) -> Iterator[tuple[str, int]]:
        """Yield the metrics and pictures; tables and texts may be written again."""
        for key in self._client.get_run(self.run_id).data.metrics:
            for metric in self._client.get_metric_history(self.run_id, key):
                yield key, metric.step
        for each in self._client.list_artifacts(self.run_id, "images"):
            path, suffix = posixpath.splitext(each.path)
            if suffix == ".png" and (found := _PICTURE.fullmatch(path)):
                yield found["key"].replace("~", "/"), int(found["step"])

    def log_numbers(self, values: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        metrics = [
            self._mlflow.entities.Metric(self.rename(tag), value, now, step)
            for tag, value in values.items()
        ]
        self._client.log_batch(self.run_id, metrics=metrics)

    def log_picture(self, tag: str, file: Path, step: int) -> None:
        picture = self._mlflow.Image(str(file))
        self._client.log_image(self.run_id, picture, key=self.rename(tag), step=step)

    def log_text(self, tag: str, text: str, step: int) -> None:
        self._client.set_tag(self.run_id, self.rename(tag), f"epoch {step}: {text}")

    def log_table(self, tag: str, table: Table, step: int) -> None:
        path = f"{self.rename(tag)}/epoch_{step:03d}.csv"
        self._client.log_text(self.run_id, table.to_csv(), path)

    def log_file(self, part: Part, file: Path) -> None:
        self._client.log_artifact(self.run_id, str(file), part)

    def close(self, finished: bool = False) -> None:
        self._client.set_terminated(self.run_id, "FINISHED" if finished else "KILLED")
