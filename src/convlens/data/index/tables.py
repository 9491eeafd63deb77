"""Tables of files, labels and splits: CSV as users and programs write it."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from convlens.core.errors import UserError, nearest
from convlens.data.index.encodings import UTF8, Encoding, detect_encoding
from convlens.data.index.labels import SPLITS, Keys, parse_split
from convlens.data.index.names import find_on_disk
from convlens.data.index.several import join_labels

CSV_COLUMNS = ("file", "label", "split")
_SPECIAL = re.compile(r'[,"\r\n]')


def find_table(root: Path, path: Path) -> Path:
    """Return the file of a table: below ``root``, or as given."""
    return next((p for p in (find_on_disk(root / path), find_on_disk(path)) if p.is_file()), path)


def find_encoding(root: Path, path: Path, named: str | None, keys: Keys) -> Encoding:
    """Return the encoding of a table of labels (``convlens.data.index.encodings``).

    Args:
        root: the folder that its file names are relative to.
        path: the table.
        named: the encoding that the user states; None to detect it.
        keys: what errors call the arguments.

    Raises:
        UserError: the encoding is unknown, or cannot be detected.
    """

    def has_byte_names() -> bool:
        names = (row["file"] for _, row in read_table(path, CSV_COLUMNS[:1], keys.csv))
        other = next((name for name in names if _is_not_utf8(name)), None)
        return other is not None and (root / other).is_file()

    return detect_encoding(path, named, keys, has_byte_names)


def _is_not_utf8(name: str) -> bool:
    """Return whether a name contains bytes that are not UTF-8 (as surrogates)."""
    return any("\udc80" <= character <= "\udcff" for character in name)


def read_label_rows(
    root: Path, path: Path, keys: Keys, encoding: Encoding, several: bool = False
) -> Iterator[tuple[str | None, str, Path]]:
    """Yield (split or None, label, file below ``root``) for each row of a CSV (``list_images``).

    Args:
        root: the folder that file names are relative to.
        path: the table.
        keys: what errors call the arguments.
        encoding: of the table.
        several: whether images may have several classes; labels are then as ``several.join_labels``
            returns them.

    Raises:
        UserError: the table is incomplete, or names a file twice or one that does not exist.
    """
    spellings: dict[Path, dict[str, list[str]]] = {}
    lines: dict[Path, int] = {}
    missing: list[str] = []
    needed = CSV_COLUMNS[: 1 if several else 2]
    for line, row in read_table(path, needed, keys.csv, read_as=encoding):
        name = row["file"]
        label = join_labels(row, path, line) if several else row["label"]
        if not name or not label:
            empty = "label" if name else "file"
            raise UserError(f"{path} line {line}: column {empty!r} is empty; every row needs both")
        file = find_on_disk(root / name, spellings)
        if file in lines:
            raise UserError(
                f"{path} names {name} twice, in lines {lines[file]} and {line}: keep one"
            )
        lines[file] = line
        split = parse_split(row["split"]) if "split" in row else None
        if "split" in row and split not in SPLITS:
            raise UserError(
                f"{path} line {line}: split {row['split']!r} is not train, validation or test; "
                "write one of them in every row or remove the column 'split'"
            )
        if not file.is_file():
            missing.append(name)
        yield split, label, file
    if not lines:
        raise UserError(f"no rows in {path}: expected one per image below its header line")
    if missing:
        is_assumed = encoding.codec == "cp1252"
        hint = f", or set {keys.encoding} (read as {encoding.codec})" if is_assumed else ""
        raise UserError(
            f"{len(missing)} of {len(lines)} files named in {path} do not exist, such as "
            f"{missing[0]}, searched below {root}: correct the table or {keys.directory}{hint}"
        )


def format_csv_line(values: Iterable[str]) -> str:
    """Return one line of a CSV file: values separated by commas, and quoted if necessary.

    The ``csv`` module does not quote a carriage return if lines end without one, but its reader
    then takes it for the end of the row.

    >>> format_csv_line(["a,b", "c"])
    '"a,b",c\\n'
    """
    quoted = ('"' + v.replace('"', '""') + '"' if _SPECIAL.search(v) else v for v in values)
    return ",".join(quoted) + "\n"


def read_table(
    path: Path,
    columns: Sequence[str],
    key: str,
    strip: bool = True,
    read_as: Encoding = UTF8,
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a CSV lazily: line number, and values by column.

    The separator is the first of comma, semicolon and tab that occurs in the header.

    Args:
        path: the file.
        columns: required columns; others may exist.
        key: what messages call the file.
        strip: whether to strip spaces around values.
        read_as: the encoding of the file.

    Raises:
        UserError: the file cannot be read or lacks a column; the error names the file.
    """
    try:
        with open(path, encoding=read_as.codec, errors=read_as.errors, newline="") as file:
            header = file.readline()
            separator = next((mark for mark in ",;\t" if mark in header), ",")
            file.seek(0)
            reader = csv.DictReader(file, delimiter=separator, restval="")
            reader.fieldnames = header_names = [
                name.removeprefix("\ufeff").strip() for name in reader.fieldnames or ()
            ]
            for column in columns:
                if column not in header_names:
                    raise UserError(
                        f"no column {column!r} in {path}: its first line must name the columns "
                        f"{', '.join(columns)}; {nearest(column, header_names)}"
                    )
            for row in reader:
                yield reader.line_num, {k: v.strip() if strip else v for k, v in row.items() if k}
    except FileNotFoundError:
        raise UserError(f"no file {path}: set {key} to a table of files and labels") from None
    except UnicodeError as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"{path} cannot be read as {read_as.codec} ({reason}): set data.encoding to its "
            "encoding, or save it as UTF-8"
        ) from None
    except (OSError, csv.Error) as error:
        raise UserError(
            f"cannot read {path} as a table: {error}; set {key} to a CSV file"
        ) from None
