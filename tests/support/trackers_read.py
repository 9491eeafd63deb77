"""Read back what a run logged, from TensorBoard and each tracker, by the readers of each."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
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

    client = MlflowClient(f"sqlite:///{home / 'trackers' / 'mlflow' / 'mlflow.db'}")
    experiment, logged = client.get_experiment_by_name("convlens"), Logged()
    (run,) = client.search_runs([experiment.experiment_id])
    number = run.info.run_id
    for key in run.data.metrics:
        for each in client.get_metric_history(number, key):
            logged.numbers[key, each.step, each.value] += 1
    for path in list_files(client, number, "images"):
        key, _, step, *_ = path.removeprefix("images/").split("+")
        if path.endswith(".png"):
            logged.pictures[key.replace("~", "/"), int(step)] += 1
    for path in list_files(client, number, "tables"):
        tag, _, name = path.rpartition("/")
        text = Path(client.download_artifacts(number, path)).read_text()
        step = int(name.removeprefix("epoch_").removesuffix(".csv"))
        logged.tables[tag, step] = list(csv.reader(io.StringIO(text)))
    for name, value in run.data.tags.items():
        if not name.startswith("mlflow."):
            epoch, _, text = value.partition(": ")
            logged.texts[name, int(epoch.removeprefix("epoch ")), text] += 1
    return logged, run


def list_files(client: Any, run: str, folder: str) -> Iterator[str]:
    """Yield the paths of all artifacts below a folder."""
    for each in client.list_artifacts(run, folder):
        yield from list_files(client, run, each.path) if each.is_dir else [each.path]


def read_trackio(home: Path) -> Logged:
    """Read the database of trackio in a run folder, by SQLite."""
    logged, folder = Logged(), home / "trackers" / "trackio"
    with sqlite3.connect(folder / "convlens.db") as database:
        rows = database.execute("SELECT step, metrics FROM metrics ORDER BY id").fetchall()
        assert len(set(database.execute("SELECT run_id FROM metrics").fetchall())) == 1
    for step, metrics in rows:
        for tag, value in json.loads(metrics).items():
            kind = value["_type"] if isinstance(value, dict) else "number"
            if kind == "number":
                logged.numbers[tag, step, float(value)] += 1
            elif kind == "trackio.image":
                assert (folder / "media" / value["file_path"]).is_file()
                logged.pictures[tag, step] += 1
            elif kind == "trackio.table":
                cells = value["_value"]
                logged.tables[tag, step] = [[*cells[0]], *([*row.values()] for row in cells)]
            else:
                logged.texts[tag, step, value["_value"]] += 1
    return logged


def read_wandb(home: Path) -> tuple[Logged, dict[str, Any]]:
    """Read the only offline run in a run folder, by wandb's own reader of its records.

    Returns:
        What was logged; and the ``config``, the ``id`` of the run, and its artifacts' ``files``,
        each with its size and the digest that wandb will compare.
    """
    folder, logged = find_wandb(home), Logged()
    (file,) = folder.glob("*.wandb")
    about: dict[str, Any] = {"files": {}}
    for record in read_records(file):
        content = record.get(record["type"], {})
        if record["type"] == "run":
            about |= {"config": content["config"]["update"], "id": content["run_id"]}
        elif record["type"] == "artifact" and content["type"] in ("report", "model"):
            for each in content["manifest"]["contents"]:
                about["files"][content["type"]] = int(each["size"]), each["digest"]
        elif record["type"] == "history":
            _take_row(logged, content["item"], folder / "files")
    return logged, about


def _take_row(logged: Logged, row: dict[str, Any], files: Path) -> None:
    (axis,) = row.keys() & set(AXES)
    step = row[axis]
    kinds = {key.removesuffix("._type"): row[key] for key in row if key.endswith("._type")}
    for tag, kind in kinds.items():
        path = files / row[f"{tag}.path"]
        if kind == "image-file":
            assert hashlib.sha256(path.read_bytes()).hexdigest() == row[f"{tag}.sha256"]
            logged.pictures[tag, step] += 1
        else:
            assert kind == "table-file"
            content = json.loads(path.read_text())
            logged.tables[tag, step] = [content["columns"], *content["data"]]
    inside = tuple(f"{tag}." for tag in kinds)
    for tag, value in row.items():
        if tag in AXES or tag.startswith("_") or (inside and tag.startswith(inside)):
            continue
        assert (axis == "epoch") is not tag.startswith("train_step/"), tag
        if isinstance(value, str) and value != "NaN":
            logged.texts[tag, step, value] += 1
        else:
            logged.numbers[tag, step, float(value)] += 1


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
