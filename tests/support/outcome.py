"""The results of a finished run as flat tables: read from its folder, kept, compared bit by bit.

Nothing here imports the package, because the files of a run folder are fixed (docs/runs.md):
records from before and after a change of the code can be compared.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from torch import Tensor

# what differs in every run: clocks, speeds, installed packages, and which of two processes stored
# the features first
PASSING = ("seconds", "images_per_second", "explaining", "looking", "versions", "date", "hit")
PICTURES = ("explanations", "probes")
Table = dict[str, Any]


@dataclass
class Outcome:
    """The results of one run.

    Attributes:
        tables: for each name (``weights``, ``optimizer``, ``metrics``, ``summary``, ``events``,
            ``files``) the values by their paths.
        home: folder that contains ``explanations/`` and ``probes/``.
    """

    home: Path
    tables: dict[str, Table] = field(default_factory=dict)


def read_run(home: Path, *, events: bool = True) -> Outcome:
    """Read the outcome of a finished run.

    Args:
        home: run folder.
        events: whether to include TensorBoard's events, which a killed process may lose.
    """
    tables: dict[str, Table] = {"weights": {}, "optimizer": {}}
    for which in ("best", "last"):
        content = torch.load(home / "checkpoints" / f"{which}.ckpt", weights_only=True)
        tables["weights"] |= _flat(content["state_dict"], which)
        kept = {key: content[key] for key in ("epoch", "global_step", "optimizer_states")}
        tables["optimizer"] |= _flat(kept, which)
    tables["metrics"] = _metrics(home / "metrics.csv")
    tables["summary"] = _flat(_lasting(json.loads((home / "summary.json").read_text())))
    tables["files"] = _files(home)
    if events:
        tables["events"] = _events(home / "tensorboard")
    return Outcome(home, tables)


def _flat(value: Any, path: str = "") -> Table:
    """Flatten nested values: the keys are their paths, joined by slashes."""
    if isinstance(value, dict | list | tuple):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        rows = [_flat(each, f"{path}/{key}" if path else str(key)) for key, each in inner]
        return {k: v for row in rows for k, v in row.items()} or {path: str(value)}
    return {path: value}


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lasting(each) for key, each in value.items() if key not in PASSING}
    return [_lasting(each) for each in value] if isinstance(value, list) else value


def _metrics(file: Path) -> Table:
    """Return each cell as text, by epoch and column."""
    with open(file, encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return {
        f"epoch {row['epoch']}/{column}": cell
        for row in rows
        for column, cell in row.items()
        if "seconds" not in column
    }


def _files(home: Path) -> Table:
    """Return pictures and the split by digest, and other files by presence."""
    found = {}
    for file in sorted(each for each in home.rglob("*") if each.is_file()):
        name = file.relative_to(home).as_posix()
        if name.startswith(("tensorboard/", ".")):
            continue
        exact = name.startswith(PICTURES) or name == "split.csv"
        found[name] = hashlib.sha256(file.read_bytes()).hexdigest() if exact else "there"
    return found


def _events(folder: Path) -> Table:
    """Return scalars, and digests of pictures, by tag and step; the last of a step counts."""
    found: Table = {}
    for file in sorted(folder.glob("events.*")):
        for event in _records(file.read_bytes()):
            for value in event.summary.value:
                key = f"{value.tag} at {event.step}"
                if value.HasField("image"):
                    found[key] = hashlib.sha256(value.image.encoded_image_string).hexdigest()
                elif value.HasField("simple_value") and "seconds" not in value.tag:
                    found[key] = value.simple_value
    return found


def _records(data: bytes) -> Iterator[Event]:
    """Yield the events of a TFRecord: length (8 bytes), checksum (4), event, checksum (4)."""
    start = 0
    while start < len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        yield Event.FromString(data[start + 12 : start + 12 + length])
        start += length + 16


# ------------------------------------------------------------------------------------- on the disk


def write(outcome: Outcome, home: Path) -> None:
    """Write an outcome: ``tensors.pt``, ``values.json``, and copies of the pictures."""
    home.mkdir(parents=True)
    tensors = {}
    values: dict[str, Table] = {}
    for name, table in outcome.tables.items():
        values[name] = {key: value for key, value in table.items() if not _is_tensor(value)}
        tensors |= {f"{name}:{key}": value for key, value in table.items() if _is_tensor(value)}
    torch.save(tensors, home / "tensors.pt")
    (home / "values.json").write_text(json.dumps(values, indent=1))
    for folder in PICTURES:
        if (outcome.home / folder).is_dir():
            shutil.copytree(outcome.home / folder, home / folder)


def read(home: Path) -> Outcome:
    """Read a written outcome."""
    tables = json.loads((home / "values.json").read_text())
    for name, value in torch.load(home / "tensors.pt", weights_only=True).items():
        table, _, key = name.partition(":")
        tables[table][key] = value
    return Outcome(home, tables)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


# ---------------------------------------------------------------------------------------- compared


def differences(before: Outcome, after: Outcome) -> dict[str, list[str]]:
    """Return, by table, a line for each value that is not the same bits in two outcomes."""
    found: dict[str, list[str]] = {}
    for name in sorted(before.tables.keys() | after.tables.keys()):
        one, other = (each.tables.get(name, {}) for each in (before, after))
        lines = [f"{key} is gone" for key in one.keys() - other.keys()]
        lines += [f"{key} is new" for key in other.keys() - one.keys()]
        for key in one.keys() & other.keys():
            if not _same(one[key], other[key]):
                lines.append(f"{key}: {_how(one[key], other[key], key, before, after)}")
        if lines:
            found[name] = sorted(lines)
    return found


def _same(one: Any, other: Any) -> bool:
    if _is_tensor(one) and _is_tensor(other):
        alike = (one.dtype, one.shape) == (other.dtype, other.shape)
        return alike and torch.equal(_bits(one), _bits(other))
    if _is_tensor(one) or _is_tensor(other) or type(one) is not type(other):
        return False
    return one == other or (isinstance(one, float) and math.isnan(one) and math.isnan(other))


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)


def _how(one: Any, other: Any, key: str, before: Outcome, after: Outcome) -> str:
    """Describe how two values differ."""
    if _is_tensor(one) and _is_tensor(other):
        if (one.dtype, one.shape) != (other.dtype, other.shape):
            return f"{one.dtype} {tuple(one.shape)}, now {other.dtype} {tuple(other.shape)}"
        return f"by up to {float((one.double() - other.double()).abs().max()):.1e}"
    if key.startswith(PICTURES) and Path(key).suffix in (".jpg", ".png"):
        drawn = [np.asarray(Image.open(each.home / key), np.int16) for each in (before, after)]
        if drawn[0].shape != drawn[1].shape:
            return f"size {drawn[0].shape}, now {drawn[1].shape}"
        apart = np.abs(drawn[0] - drawn[1])
        return f"{np.count_nonzero(apart)} values by up to {apart.max()} of 255"
    return f"{str(one)[:40]}, now {str(other)[:40]}"
