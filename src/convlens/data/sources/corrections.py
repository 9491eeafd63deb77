"""``data.corrections``: labels that a user has corrected, and images that are left out.

The files and their labels stay as they are; only the run sees the corrections. They are applied
after the division into splits, so that all other images are in the same split without them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from convlens.config.schema import DataConfig
from convlens.core.errors import UserError, nearest
from convlens.data.index.folders import count_noun
from convlens.data.index.labels import SPLITS
from convlens.data.index.listing import Listing
from convlens.data.index.names import normalise_name
from convlens.data.index.tables import read_table
from convlens.data.sources.image_files import ImageFiles

COLUMNS = ("file", "class", "correction")
LEAVE_OUT = "leave out"


@dataclass(frozen=True)
class Correction:
    """One row of a table of corrections.

    Attributes:
        line: its line in the table.
        given: the class that the image had when it was reviewed.
        wanted: its class from now on, or ``LEAVE_OUT``.
    """

    line: int
    given: str
    wanted: str


@dataclass(frozen=True)
class Corrected:
    """What corrections make of N images.

    Attributes:
        labels: (N,) int64.
        keep: (N,) bool, False for an image that is left out.
        line: a line to report to the user.
    """

    labels: np.ndarray
    keep: np.ndarray
    line: str


def read_corrections(spec: DataConfig) -> dict[str, Correction]:
    """Return the corrections of ``data.corrections`` by file name, with slashes.

    Raises:
        UserError: the table cannot be read, has an empty cell, or names a file twice.
    """
    path, found = Path(spec.corrections).expanduser(), {}
    for line, row in read_table(path, COLUMNS, "data.corrections", strip=False):
        file, given, wanted = (normalise_name(row[column]) for column in COLUMNS)
        if not (file and given and wanted):
            raise UserError(f"{path} line {line}: every row needs {', '.join(COLUMNS)}")
        if file in found:
            raise UserError(
                f"{path} names {file} twice, in lines {found[file].line} and {line}: keep one"
            )
        found[file] = Correction(line, given, wanted)
    return found


def apply_corrections(spec: DataConfig, image_files: ImageFiles) -> tuple[ImageFiles, list[str]]:
    """Return the image files with the corrections of ``data.corrections``, and a line on them.

    Args:
        spec: the config group ``data``.
        image_files: every image in a split.

    Raises:
        UserError: see ``find_corrections``.
    """
    if not spec.corrections:
        return image_files, []
    found = find_corrections(spec, image_files.listing)
    listing = replace(image_files.listing, labels=found.labels)
    kept = np.flatnonzero(found.keep)
    return replace(image_files, listing=listing).select(kept), [found.line]


def find_corrections(spec: DataConfig, files: Listing, *, strict: bool = True) -> Corrected:
    """Return the labels after ``data.corrections``.

    Args:
        spec: the config group ``data``.
        files: the images, each in a split.
        strict: whether every row of the table must fit the images; False for images other than
            those of the run, which may have the same names or not.

    Raises:
        UserError: a row names an unknown file or class, a label that the image no longer has, or
            the same image as another row; images may have several classes; a split loses a class.
    """
    path = Path(spec.corrections).expanduser()
    if files.present is not None:
        raise UserError(
            "data.corrections: images with several classes cannot be corrected: change their labels"
        )
    rows = _match(path, read_corrections(spec), files, strict)
    labels, keep = files.labels.copy(), np.ones(len(files), bool)
    changed = np.zeros(len(files), bool)
    for row, correction in rows.items():
        if files.splits[row] == "test" and not spec.corrections_of_test:
            continue
        changed[row] = True
        if correction.wanted == LEAVE_OUT:
            keep[row] = False
        else:
            labels[row] = files.class_names.index(correction.wanted)
    if strict:
        _check_classes(path, replace(files, labels=labels), keep)
    return Corrected(labels, keep, _describe(path, rows, files, changed, keep))


def _match(
    path: Path, corrections: Mapping[str, Correction], files: Listing, strict: bool
) -> dict[int, Correction]:
    """Return the corrections by row."""
    known = {normalise_name(name): row for row, name in enumerate(files.files.names())}
    root = os.path.abspath(files.directory)
    rows: dict[int, Correction] = {}
    for name, correction in corrections.items():
        row = known.get(name)
        if row is None and os.path.isabs(name):
            row = known.get(normalise_name(Path(os.path.relpath(name, root)).as_posix()))
        if row is None or files.class_names[files.labels[row]] != correction.given:
            if not strict:
                continue
            where = f"{path} line {correction.line}: {name}"
            if row is None:
                raise UserError(f"{where} is not among the images in {files.directory}")
            now = files.class_names[files.labels[row]]
            raise UserError(f"{where} was {correction.given!r} and is {now!r} now: remove the row")
        if correction.wanted not in (LEAVE_OUT, *files.class_names):
            choice = nearest(correction.wanted, [*files.class_names, LEAVE_OUT])
            raise UserError(
                f"{path} line {correction.line}: no class {correction.wanted!r}; {choice}"
            )
        if row in rows:
            raise UserError(
                f"{path} names {name} twice, in lines {rows[row].line} and {correction.line}"
            )
        rows[row] = correction
    return rows


def _check_classes(path: Path, files: Listing, keep: np.ndarray) -> None:
    for split in SPLITS:
        left = files.labels[keep & (files.splits == split)]
        before = files.splits == split
        for label, name in enumerate(files.class_names):
            if before.any() and not (left == label).any():
                raise UserError(f"{path} leaves class {name!r} without {split} images: keep one")


def _describe(
    path: Path, rows: Mapping[int, Correction], files: Listing, changed: np.ndarray,
    keep: np.ndarray,
) -> str:  # fmt: skip
    parts = []
    for split in SPLITS:
        inside = changed & (files.splits == split)
        if inside.any():
            out = int((inside & ~keep).sum())
            parts.append(f"{split} {int(inside.sum()) - out} relabelled, {out} left out")
    line = f"corrections of {path}: {'; '.join(parts) or 'none applies'}"
    if skipped := len(rows) - int(changed.sum()):
        what = count_noun(skipped, "row is", "rows are")
        line += (
            f"; {what} about test images and not applied (data.corrections_of_test=true does it)"
        )
    return line
