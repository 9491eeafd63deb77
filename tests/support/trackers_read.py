"""Read back what a run logged, from TensorBoard and each tracker, by the readers of each."""

from __future__ import annotations

import csv
import io
import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

AXES = ("epoch", "optimizer_step")


@dataclass
class Logged:
    """What was logged, each entry as often as it is there.

    Attributes:
        numbers: tag, step and value.
        pictures: tag and step.
        texts: tag, step and text.
        tables: by tag and step, the rows as texts and numbers, the names of the columns first.
    """

    numbers: Counter = field(default_factory=Counter)
    pictures: Counter = field(default_factory=Counter)
    texts: Counter = field(default_factory=Counter)
    tables: dict[tuple[str, int], list] = field(default_factory=dict)

    def rounded(self) -> Counter:
        """The numbers as float32, which is what TensorBoard keeps."""
        counts: Counter = Counter()
        for (tag, step, value), count in self.numbers.items():
            counts[tag, step, float(np.float32(value))] += count
        return counts


def read_tensorboard(home: Path) -> Logged:
    """Read the event files of a run, as TensorBoard does."""
    kept = {"scalars": 0, "images": 0, "tensors": 0}
    events, logged = EventAccumulator(str(home / "tensorboard"), kept).Reload(), Logged()
    for tag in events.Tags()["scalars"]:
        logged.numbers.update((tag, each.step, each.value) for each in events.Scalars(tag))
    for tag in events.Tags()["images"]:
        logged.pictures.update((tag, each.step) for each in events.Images(tag))
    for tag in events.Tags()["tensors"]:
        name, _, kind = tag.rpartition("/")
        for each in events.Tensors(tag) if kind == "text_summary" else ():
            text = each.tensor_proto.string_val[0].decode()
            if name.startswith("tables/"):
                lines = [line.strip("| ").split(" | ") for line in text.splitlines()]
                logged.tables[name, each.step] = [lines[0], *lines[2:]]
            elif name != "config":
                logged.texts[name, each.step, text] += 1
    return logged


def read_mlflow(home: Path) -> tuple[Logged, Any]:
    """Read the only run in a run folder's database by MLflow's client; return the run too."""
    from mlflow import MlflowClient

    client, logged = MlflowClient(f"sqlite:///{home / 'trackers' / 'mlflow' / 'mlflow.db'}"), Logged()
    experiment = client.get_experiment_by_name("convlens")
    (run,) = client.search_runs([experiment.experiment_id])
    for key in run.data.metrics:
        for each in client.get_metric_history(run.info.run_id, key):
            logged.numbers[key, each.step, each.value] += 1
    for each in client.list_artifacts(run.info.run_id, "images"):
        key, _, step, *_ = each.path.removeprefix("images/").split("+")
        if each.path.endswith(".png"):
            logged.pictures[key.replace("~", "/"), int(step)] += 1
    for folder in client.list_artifacts(run.info.run_id, "tables"):
        for each in client.list_artifacts(run.info.run_id, folder.path):
            for file in [each] if not each.is_dir else client.list_artifacts(run.info.run_id, each.path):
                tag, _, name = file.path.rpartition("/")
                text = Path(client.download_artifacts(run.info.run_id, file.path)).read_text()
                step = int(name.removeprefix("epoch_").removesuffix(".csv"))
                logged.tables[tag, step] = list(csv.reader(io.StringIO(text)))
    for name, value in run.data.tags.items():
        if not name.startswith("mlflow."):
            epoch, _, text = value.partition(": ")
            logged.texts[name, int(epoch.removeprefix("epoch ")), text] += 1
    return logged, run


def read_trackio(home: Path) -> Logged:
    """Read the database of trackio in a run folder, by SQLite."""
    logged = Logged()
    with sqlite3.connect(home / "trackers" / "trackio" / "convlens.db") as database:
        rows = database.execute("SELECT step, metrics FROM metrics ORDER BY id").fetchall()
        assert len(set(database.execute("SELECT run_id FROM metrics").fetchall())) == 1
    for step, metrics in rows:
        for tag, value in json.loads(metrics).items():
            kind = value["_type"] if isinstance(value, dict) else "number"
            if kind == "number":
                logged.numbers[tag, step, float(value)] += 1
            elif kind == "trackio.image":
                assert (home / "trackers" / "trackio" / "media" / value["file_path"]).is_file()
                logged.pictures[tag, step] += 1
            elif kind == "trackio.table":
                rows = value["_value"]
                logged.tables[tag, step] = [list(rows[0]), *(list(row.values()) for row in rows)]
            else:
                logged.texts[tag, step, value["_value"]] += 1
    return logged


def read_records(file: Path) -> list[dict[str, Any]]:
    """Return the records of a ``.wandb`` file, by wandb's own reader."""
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)],
        capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL,
        env={**os.environ, "WANDB_ERROR_REPORTING": "false"},
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


def find_wandb(home: Path) -> Path:
    """Return the only folder of an offline run of wandb in a run folder."""
    (folder,) = (home / "trackers" / "wandb").glob("offline-run-*")
    return folder
