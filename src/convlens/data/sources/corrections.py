"""``data.corrections``: labels that a user has corrected, and images that are left out.

The files and their labels stay as they are; only the run sees the corrections. They are applied
after the division into splits, so that all other images are in the same split without them.

Legend: N images.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from convlens.config.schema import DataConfig
from convlens.core.errors import UserError, nearest
from convlens.core.files import open_atomic
from convlens.data.index.folders import count_noun
from convlens.data.index.labels import SPLITS
from convlens.data.index.listing import Listing
from convlens.data.index.names import find_on_disk, normalise_name
from convlens.data.index.tables import format_csv_line, read_table
from convlens.data.sources.image_files import ImageFiles

COLUMNS = ("file", "class", "correction")
LEAVE_OUT = "leave out"
COPY = "corrected.csv"  # in a run folder: the table that the run was trained with


@dataclass(frozen=True)
class Correction:
    """One row of a table of corrections.

    Attributes:
        file: the image.
        given: the class that the image has in the data set.
        wanted: its class in the run, or ``LEAVE_OUT``.
        line: its line in the table.
    """

    file: str
    given: str
    wanted: str
    line: int = 0


@dataclass(frozen=True)
class Corrected:
    """What a table of corrections makes of N images.

    Attributes:
        labels: (N,) int64, after the corrections.
        relabelled: (N,) bool, where they differ from the given ones.
        left_out: (N,) bool.
        table: every row of the table, applied or not, with the file names of the listing.
        rows: by row of the table, the image.
    """

    labels: np.ndarray
    relabelled: np.ndarray
    left_out: np.ndarray
    table: Sequence[Correction]
    rows: np.ndarray


def apply_corrections(
    spec: DataConfig, image_files: ImageFiles
) -> tuple[ImageFiles, list[str], Sequence[Correction]]:
    """Return the image files with the corrections of ``data.corrections``, a line, and the table.

    Args:
        spec: the config group ``data``; ``corrections_of`` names the splits that are corrected.
        image_files: every image in a split.

    Raises:
        UserError: see ``correct``; or a split loses a class.
    """
    if not spec.corrections:
        return image_files, [], ()
    listing = image_files.listing
    found = correct(spec, listing, np.isin(listing.splits, spec.corrections_of or ()))
    _check_classes(spec, listing, found)
    line = _describe(spec, listing, found)
    image_files = replace(image_files, listing=replace(listing, labels=found.labels))
    return image_files.select(np.flatnonzero(~found.left_out)), [line], found.table


def correct(spec: DataConfig, listing: Listing, applies: np.ndarray) -> Corrected:
    """Match every row of the table ``data.corrections`` with an image.

    Args:
        spec: the config group ``data``.
        listing: N images.
        applies: (N,) bool, the images that may be corrected.

    Raises:
        UserError: the table cannot be read; a row names no image or no class, another class than
            the image has, or the image of another row; images may have several classes.
    """
    path, names = find_on_disk(Path(spec.corrections).expanduser()), listing.class_names
    if listing.present is not None:
        raise UserError(
            "data.corrections: images with several classes cannot be corrected; change their labels"
        )
    if LEAVE_OUT in names:
        raise UserError(
            f"data.corrections: {LEAVE_OUT!r} leaves an image out, but a class of "
            f"{listing.directory} is called so; rename it"
        )
    by_row = _match(path, read_corrections(path), listing)
    labels, left_out = listing.labels.copy(), np.zeros(len(listing), bool)
    for row, correction in by_row.items():
        if not applies[row]:
            continue
        if correction.wanted == LEAVE_OUT:
            left_out[row] = True
        else:
            labels[row] = names.index(correction.wanted)
    table = [replace(each, file=listing.files.name(row)) for row, each in by_row.items()]
    rows = np.fromiter(by_row, np.int64, len(by_row))
    return Corrected(labels, labels != listing.labels, left_out, table, rows)


def read_corrections(path: Path) -> list[Correction]:
    """Return the rows of a table; classes are in composed spelling.

    Raises:
        UserError: the table cannot be read, or a row is incomplete.
    """
    found = []
    for line, row in read_table(path, COLUMNS, "data.corrections", strip=False):
        file, given, wanted = (row[column] for column in COLUMNS)
        found.append(Correction(file, normalise_name(given), normalise_name(wanted), line))
    if empty := [each for each in found if not (each.file and each.given and each.wanted)]:
        raise UserError(f"{path} {_name_lines(empty)}: every row needs {', '.join(COLUMNS)}")
    return found


def write_corrections(path: Path, table: Iterable[Correction]) -> None:
    """Write a table that ``read_corrections`` reads, completely or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    with open_atomic(path, errors="surrogateescape", newline="") as file:
        file.write(format_csv_line(COLUMNS))
        for each in table:
            file.write(format_csv_line((each.file, each.given, each.wanted)))


def _match(path: Path, table: Sequence[Correction], listing: Listing) -> dict[int, Correction]:
    """Return the corrections by row of the listing; refuse the table if any does not fit."""
    names, by_row = listing.class_names, {}
    missing: list[Correction] = []
    changed: list[tuple[Correction, str]] = []
    unknown: list[Correction] = []
    repeated: list[Correction] = []
    for each, row in zip(table, _find_rows([e.file for e in table], listing), strict=True):
        if row is None:
            missing.append(each)
        elif (now := names[listing.labels[row]]) != each.given:
            changed.append((each, now))
        elif each.wanted not in (LEAVE_OUT, *names):
            unknown.append(each)
        elif row in by_row:
            repeated.append(each)
        else:
            by_row[row] = each
    problems = []
    if missing:
        where = f"is not among the images in {listing.directory}"
        problems.append(f"{_name_lines(missing)}: {missing[0].file} {where}")
    if changed:
        each, now = changed[0]
        lines = _name_lines([each for each, _ in changed])
        problems.append(f"{lines}: {each.file} is {now!r}, not {each.given!r}")
    if unknown:
        choice = nearest(unknown[0].wanted, [*names, LEAVE_OUT])
        problems.append(f"{_name_lines(unknown)}: no class {unknown[0].wanted!r}; {choice}")
    if repeated:
        problems.append(f"{_name_lines(repeated)}: an earlier line names {repeated[0].file} too")
    if problems:
        raise UserError(f"{path} {'; '.join(problems)}: correct or remove these lines")
    return by_row


def _name_lines(table: Sequence[Correction]) -> str:
    """Return the numbers of all lines: ``line 3``, or ``lines 3, 7-9``."""
    numbers = sorted(each.line for each in table)
    starts = [b for a, b in pairwise([-1, *numbers]) if b > a + 1]
    ends = [a for a, b in pairwise([*numbers, numbers[-1] + 2]) if b > a + 1]
    spans = [f"{a}-{b}" if b > a else f"{a}" for a, b in zip(starts, ends, strict=True)]
    return f"{'lines' if len(numbers) > 1 else 'line'} {', '.join(spans)}"


def _find_rows(names: Sequence[str], listing: Listing) -> list[int | None]:
    """Return the row of each file name; None if no image has it, or several might.

    A name is relative to the data set or absolute, as ``split.csv`` and ``diary.csv`` have it, with
    accents in either spelling.
    """
    root = Path(normalise_name(os.path.abspath(listing.directory)))
    spellings = [_list_spellings(name, root) for name in names]
    wanted = {normalise_name(spelling) for each in spellings for spelling in each}
    exact: dict[str, int] = {}
    composed: dict[str, list[int]] = {}
    for row, name in enumerate(listing.files.names()):
        if (key := normalise_name(Path(name).as_posix())) in wanted:
            exact[Path(name).as_posix()] = row
            composed.setdefault(key, []).append(row)

    def find(each: list[str]) -> int | None:
        for spelling in each:
            same = composed.get(normalise_name(spelling), ())
            if spelling in exact or len(same) == 1:
                return exact.get(spelling, same[0])
        return None

    return list(map(find, spellings))


def _list_spellings(name: str, root: Path) -> list[str]:
    """Return how a listing of ``root`` may spell a file, the most literal one first."""
    place = Path(os.path.abspath(name))
    composed = Path(normalise_name(str(place)))
    below = [composed.relative_to(root).as_posix()] if composed.is_relative_to(root) else []
    return [Path(name).as_posix(), place.as_posix(), *below]


def _check_classes(spec: DataConfig, listing: Listing, found: Corrected) -> None:
    """Refuse corrections after which a class has no image in a split that had some."""
    for split in SPLITS:
        inside = listing.splits == split
        before, after = listing.labels[inside], found.labels[inside & ~found.left_out]
        if lost := np.setdiff1d(before, after).tolist():
            raise UserError(
                f"data.corrections={spec.corrections} leaves no {split} image of class "
                f"{listing.class_names[lost[0]]!r}: keep one"
            )


def _describe(spec: DataConfig, listing: Listing, found: Corrected) -> str:
    """Return a line on what is corrected, by split, and on rows that are not applied."""
    parts, applied = [], spec.corrections_of or ()
    for split in SPLITS:
        inside = listing.splits == split
        changed, out = (int(each[inside].sum()) for each in (found.relabelled, found.left_out))
        if changed or out:
            parts.append(f"{split} {changed} relabelled, {out} left out")
    line = f"corrections of {spec.corrections}: {'; '.join(parts) or 'no label changes'}"
    waiting = [split for split in listing.splits[found.rows].tolist() if split not in applied]
    if waiting:
        others = sorted(set(waiting), key=SPLITS.index)
        what = count_noun(len(waiting), "row is", "rows are")
        key = f"data.corrections_of=[{','.join([*applied, *others])}]"
        line += f"; {what} about {' and '.join(others)} images and not applied ({key} does it)"
    return line
