"""Labels that are not folder names: patterns over file names, and tables in CSV files."""

from __future__ import annotations

import contextlib
import csv
import functools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

from convlens.core.errors import UserError, nearest
from convlens.data.index.names import composed, spelt_on_disk

SPLITS = ("train", "validation", "test")
# What people call their splits, as `split_of` reduces a name.
_SPLIT_WORDS = {
    "train": (
        "train training trn trainings entrainement apprentissage entrenamiento addestramento "
        "treino treinamento обучение 训练 訓練 学習 학습 훈련"
    ),
    "validation": (
        "validation validations validate validating val valid dev devel development "
        "validierung validierungs validacion validacao validazione валидация 验证 驗證 検証 검증"
    ),
    "test": ("test testing tst prueba pruebas teste testes тест 测试 測試 テスト 테스트"),
}
# Words for either of the two splits that are not trained on.
HELD_OUT = "held out"
_HELD_OUT_WORDS = "eval evals evaluation holdout heldout"
# Words beside them that change nothing: training_set, test-images, ValidationData.
_FILLERS = (
    "set data dataset image images img imgs picture pictures photo photos split subset folder "
    "samples daten 集 データ 데이터"
)
PATTERN_FIELDS = {"class": r"(?P<class>[^/]+?)", "number": r"[0-9]+"}
PATTERN_EXAMPLE = "{class}.*"  # as it is typed, in double quotes with its key
CSV_COLUMNS = ("file", "label", "split")
_PARTING = re.compile(r'[,"\r\n]')


def _words(name: str) -> list[str]:
    """The words of a name without case, accents and numbers."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)  # TrainImages
    letters = unicodedata.normalize("NFKD", parted.casefold())
    plain = "".join(c for c in letters if not unicodedata.combining(c))
    return re.findall(r"[^\W\d_]+", plain)


_KNOWN_FILLERS = frozenset(_words(_FILLERS))
_KNOWN_SPLITS = {
    word + filler: split
    for split, words in (*_SPLIT_WORDS.items(), (HELD_OUT, _HELD_OUT_WORDS))
    for word in _words(words)
    for filler in ("", *_KNOWN_FILLERS)
}


@functools.lru_cache(maxsize=1024)
def split_of(name: str) -> str | None:
    """Which split a folder or a table calls so; ``HELD_OUT``: validation or test; or None.

    >>> split_of("Training_Set"), split_of("val2017"), split_of("eval"), split_of("cats")
    ('train', 'validation', 'held out', None)
    """
    return _KNOWN_SPLITS.get("".join(w for w in _words(name) if w not in _KNOWN_FILLERS))


class Keys(NamedTuple):
    """What the person calls the arguments, so that an error names the word to change."""

    directory: str = "data.dir"
    pattern: str = "data.pattern"
    csv: str = "data.csv"


def compiled(pattern: str, keys: Keys) -> re.Pattern[str]:
    """The regular expression of a name pattern (see ``list_pictures``), for composed names."""
    pattern = composed(pattern)
    if "(?P<class>" in pattern:
        try:
            return re.compile(pattern)
        except re.error as error:
            raise UserError(
                f"{keys.pattern} is no regular expression: {error}: {pattern}"
            ) from None
    expression = ""
    for part in re.split(r"(\{[^{}]*\}|\*|\?)", pattern):
        if part.startswith("{"):
            field = part[1:-1]
            if field not in PATTERN_FIELDS:
                raise UserError(
                    f"unknown field {part} in {keys.pattern}={pattern}: "
                    f"{nearest(field, PATTERN_FIELDS)}"
                )
            expression += PATTERN_FIELDS[field]
        else:
            expression += {"*": ".*", "?": "."}.get(part, re.escape(part))
    if pattern.count("{class}") != 1:
        raise UserError(
            f"{keys.pattern}={pattern} must hold {{class}} once: {PATTERN_EXAMPLE} reads cat.0.jpg"
        )
    return re.compile(expression)


def classes_in_names(names: Sequence[str], pattern: str, folder: Path, keys: Keys) -> list[str]:
    """The class that ``pattern`` finds in each name; UserError if one name does not fit."""
    shape = compiled(pattern, keys)
    found: list[str] = []
    known: dict[str, str] = {}  # one text a class, not one a picture
    odd, empty = None, None
    for name in names:
        match = shape.fullmatch(composed(name))
        if match is None:
            odd = odd or name
            continue
        label = match["class"]
        empty = empty or (name if not label else None)
        found.append(known.setdefault(label, label))
    if odd is not None:
        fitting = len(found) or "none"
        raise UserError(
            f"{fitting} of {len(names)} names in {folder} fit {keys.pattern}={pattern}: {odd} "
            "does not; mend the pattern, or move what is not meant out of the folder"
        )
    if empty is not None:
        raise UserError(f"{keys.pattern}={pattern} finds an empty class in {folder / empty}")
    return found


def suggested_pattern(names: Sequence[str], keys: Keys) -> str | None:
    """A pattern that all names follow and that gives two or more classes."""
    # {class}.* alone would take every photo.jpg for a class of its own: ask for the number here.
    trials = {
        PATTERN_EXAMPLE: "{class}.{number}.*",
        "{class}_{number}.*": "{class}_{number}.*",
        "{class}-{number}.*": "{class}-{number}.*",
    }
    for shown, strict in trials.items():
        matches = [compiled(strict, keys).fullmatch(composed(name)) for name in names]
        if all(matches) and 2 <= len({match["class"] for match in matches}) < len(names):
            return shown
    return None


def rows_of_table(
    root: Path, path: Path, columns: Sequence[str], keys: Keys
) -> Iterator[tuple[str | None, str, Path]]:
    """(split or None, label, file below ``root``) of each row of a CSV; see ``list_pictures``."""
    spellings: dict[Path, dict[str, list[str]]] = {}
    path = next((p for p in (spelt_on_disk(root / path), spelt_on_disk(path)) if p.is_file()), path)
    table, found = read_table(path, columns, keys.csv)
    with_split = len(columns) > 2 and columns[2] in found
    seen: dict[Path, int] = {}
    missing: list[str] = []
    for line, row in table:
        name, label = row[columns[0]], row[columns[1]]
        if not name or not label:
            empty = columns[0] if not name else columns[1]
            raise UserError(f"{path} line {line}: column {empty!r} is empty; every row needs both")
        file = spelt_on_disk(root / name, spellings)
        if file in seen:
            raise UserError(
                f"{path} names {name} twice, in lines {seen[file]} and {line}: keep one"
            )
        seen[file] = line
        split = split_of(row[columns[2]]) if with_split else None
        if with_split and split not in SPLITS:
            raise UserError(
                f"{path} line {line}: split {row[columns[2]]!r} is none of train, validation, "
                f"test; write one of them in every row or drop the column {columns[2]!r}"
            )
        if not file.is_file():
            missing.append(name)
        yield split, label, file
    if not seen:
        raise UserError(f"no rows in {path}: expected one a picture below its header line")
    if missing:
        raise UserError(
            f"{len(missing)} of {len(seen)} files named in {path} do not exist, such as "
            f"{missing[0]}: they are looked for below {root}; mend the table or {keys.directory}"
        )


def csv_line(values: Iterable[str]) -> str:
    """One line of a CSV file, commas between values, quoted where they hold what parts them.

    The ``csv`` module leaves a carriage return unquoted where lines end without one, and its own
    reader then takes it for the end of the row.

    >>> csv_line(["a,b", "c"])
    '"a,b",c\\n'
    """
    quoted = ('"' + v.replace('"', '""') + '"' if _PARTING.search(v) else v for v in values)
    return ",".join(quoted) + "\n"


def read_table(
    path: Path, columns: Sequence[str], key: str, strip: bool = True
) -> tuple[Iterator[tuple[int, dict[str, str]]], tuple[str, ...]]:
    """The rows of a CSV (line number, values; ``strip``: without spaces around them), read as they
    are asked for, and the names of its columns.

    The separator is the first of comma, semicolon and tab that parts the header; the first two
    of ``columns`` must be there. Raises UserError naming the file and what it lacks; the rows do
    where one of them cannot be read.
    """
    with _as_table(path, key) as file:
        found = _reader(file)[1]
    for column in columns[:2]:
        if column not in found:
            raise UserError(
                f"no column {column!r} in {path}: its first line must name the columns "
                f"{', '.join(columns[:2])}; {nearest(column, found)}"
            )

    def rows() -> Iterator[tuple[int, dict[str, str]]]:
        with _as_table(path, key) as file:
            reader, _ = _reader(file)
            for row in reader:
                values = {k: v.strip() if strip else v for k, v in row.items() if k}
                yield reader.line_num, values

    return rows(), found


def _reader(file: TextIO) -> tuple[csv.DictReader, tuple[str, ...]]:
    """The rows of an open table, and the names of its columns."""
    header = file.readline()
    separator = next((mark for mark in ",;\t" if mark in header), ",")
    file.seek(0)
    reader = csv.DictReader(file, delimiter=separator, restval="")
    found = tuple(name.strip() for name in reader.fieldnames or ())
    reader.fieldnames = found
    return reader, found


@contextlib.contextmanager
def _as_table(path: Path, key: str) -> Iterator[TextIO]:
    try:
        # surrogateescape: file names need not be UTF-8, and must come back as they were.
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            yield file
    except FileNotFoundError:
        raise UserError(f"no file {path}: {key} names a table of files and labels") from None
    except (OSError, csv.Error) as error:
        raise UserError(f"cannot read {path} as a table: {error}; {key} names a CSV file") from None
