"""Tables of files, labels and splits: CSV as people and programs write it."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from convlens.core.errors import UserError, nearest
from convlens.data.index.labels import SPLITS, Keys, parse_split
from convlens.data.index.names import find_on_disk

CSV_COLUMNS = ("file", "label", "split")
_PARTING = re.compile(r'[,"\r\n]')


def read_label_rows(root: Path, path: Path, keys: Keys) -> Iterator[tuple[str | None, str, Path]]:
    """(split or None, label, file below ``root``) of each row of a CSV; see ``list_images``."""
    spellings: dict[Path, dict[str, list[str]]] = {}
    path = next((p for p in (find_on_disk(root / path), find_on_disk(path)) if p.is_file()), path)
    seen: dict[Path, int] = {}
    missing: list[str] = []
    for line, row in read_table(path, CSV_COLUMNS[:2], keys.csv):
        name, label = row["file"], row["label"]
        if not name or not label:
            empty = "label" if name else "file"
            raise UserError(f"{path} line {line}: column {empty!r} is empty; every row needs both")
        file = find_on_disk(root / name, spellings)
        if file in seen:
            raise UserError(
                f"{path} names {name} twice, in lines {seen[file]} and {line}: keep one"
            )
        seen[file] = line
        split = parse_split(row["split"]) if "split" in row else None
        if "split" in row and split not in SPLITS:
            raise UserError(
                f"{path} line {line}: split {row['split']!r} is none of train, validation, test; "
                "write one of them in every row or drop the column 'split'"
            )
        if not file.is_file():
            missing.append(name)
        yield split, label, file
    if not seen:
        raise UserError(f"no rows in {path}: expected one an image below its header line")
    if missing:
        raise UserError(
            f"{len(missing)} of {len(seen)} files named in {path} do not exist, such as "
            f"{missing[0]}: they are looked for below {root}; mend the table or {keys.directory}"
        )


def format_csv_line(values: Iterable[str]) -> str:
    """One line of a CSV file, commas between values, quoted where they hold what parts them.

    The ``csv`` module leaves a carriage return unquoted where lines end without one, and its own
    reader then takes it for the end of the row.

    >>> format_csv_line(["a,b", "c"])
    '"a,b",c\\n'
    """
    quoted = ('"' + v.replace('"', '""') + '"' if _PARTING.search(v) else v for v in values)
    return ",".join(quoted) + "\n"


def read_table(
    path: Path, columns: Sequence[str], key: str, strip: bool = True
) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV, line number and values by column, read as they are asked for.

    The separator is the first of comma, semicolon and tab that parts the header.

    Args:
        columns: that must be there; others may be.
        key: what messages call the file.
        strip: whether values come without the spaces around them.

    Raises:
        UserError: naming the file and what it lacks, or that it cannot be read.
    """
    try:
        # surrogateescape: file names need not be UTF-8, and must come back as they were.
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            header = file.readline()
            separator = next((mark for mark in ",;\t" if mark in header), ",")
            file.seek(0)
            reader = csv.DictReader(file, delimiter=separator, restval="")
            reader.fieldnames = found = [name.strip() for name in reader.fieldnames or ()]
            for column in columns:
                if column not in found:
                    raise UserError(
                        f"no column {column!r} in {path}: its first line must name the columns "
                        f"{', '.join(columns)}; {nearest(column, found)}"
                    )
            for row in reader:
                yield reader.line_num, {k: v.strip() if strip else v for k, v in row.items() if k}
    except FileNotFoundError:
        raise UserError(f"no file {path}: {key} names a table of files and labels") from None
    except (OSError, csv.Error) as error:
        raise UserError(f"cannot read {path} as a table: {error}; {key} names a CSV file") from None
