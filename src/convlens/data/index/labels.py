"""Meaning in names: splits from folder names, labels from file names by a pattern."""

from __future__ import annotations

import functools
import re
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from convlens.core.errors import UserError, nearest
from convlens.data.index.names import normalise_name

SPLITS = ("train", "validation", "test")
# What people call their splits, in the form to which `parse_split` reduces a name.
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
# Words for either of the splits that are not trained on.
HELD_OUT = "held out"
_HELD_OUT_WORDS = "eval evals evaluation holdout heldout"
# Words beside them that add no meaning: training_set, test-images, ValidationData.
_FILLERS = (
    "set data dataset image images img imgs picture pictures photo photos split subset folder "
    "samples daten 集 データ 데이터"
)
PATTERN_FIELDS = {"class": r"(?P<class>[^/]+?)", "number": r"[0-9]+"}
PATTERN_EXAMPLE = "{class}.*"  # as a user types it, in double quotes with its key


def _words(name: str) -> list[str]:
    """Return the words of a name without case, accents and numbers."""
    separated = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)  # TrainImages
    letters = unicodedata.normalize("NFKD", separated.casefold())
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
def parse_split(name: str) -> str | None:
    """Return the split that the name of a folder or the entry of a table means, or None.

    ``HELD_OUT`` stands for validation or test.

    >>> parse_split("Training_Set"), parse_split("val2017"), parse_split("cats")
    ('train', 'validation', None)
    >>> parse_split("eval")
    'held out'
    """
    return _KNOWN_SPLITS.get("".join(w for w in _words(name) if w not in _KNOWN_FILLERS))


class Keys(NamedTuple):
    """What the user calls the arguments, so that an error names the key to change."""

    directory: str = "data.dir"
    pattern: str = "data.pattern"
    csv: str = "data.csv"
    encoding: str = "data.encoding"
    class_choice: str = ""  # only some sources have such a key


def compile_pattern(pattern: str, keys: Keys) -> re.Pattern[str]:
    """Return the regular expression of a name pattern (``list_images``), for composed names.

    Raises:
        UserError: the pattern is not valid.
    """
    pattern = normalise_name(pattern)
    if "(?P<class>" in pattern:
        try:
            return re.compile(pattern)
        except re.error as error:
            raise UserError(
                f"{keys.pattern} is not a regular expression: {error}: {pattern}"
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
            f"{keys.pattern}={pattern} needs {{class}} once: {PATTERN_EXAMPLE} reads cat.0.jpg"
        )
    return re.compile(expression)


def read_classes(names: Sequence[str], pattern: str, folder: Path, keys: Keys) -> list[str]:
    """Return the class that ``pattern`` finds in each name.

    Raises:
        UserError: a name does not fit the pattern.
    """
    matches = map(compile_pattern(pattern, keys).fullmatch, map(normalise_name, names))
    # interned: one string per class, not one per image
    classes = [match and sys.intern(match["class"] or "") for match in matches]
    if None in classes:
        fitting = len(classes) - classes.count(None) or "none"
        raise UserError(
            f"{fitting} of {len(names)} names in {folder} fit {keys.pattern}={pattern}: "
            f"{names[classes.index(None)]} does not; correct the pattern or move other files out"
        )
    if "" in classes:
        empty = folder / names[classes.index("")]
        raise UserError(f"{keys.pattern}={pattern} finds an empty class in {empty}")
    return classes


def suggest_pattern(names: Sequence[str], keys: Keys) -> str | None:
    """Return a pattern that all names follow and that gives at least two classes, or None."""
    for pattern in (PATTERN_EXAMPLE, "{class}_{number}.*", "{class}-{number}.*"):
        # {class}.* alone would turn every photo.jpg into a class, so require the number here
        strict = "{class}.{number}.*" if pattern == PATTERN_EXAMPLE else pattern
        expression = compile_pattern(strict, keys)
        matches = [expression.fullmatch(normalise_name(name)) for name in names]
        if all(matches) and 2 <= len({match["class"] for match in matches}) < len(names):
            return pattern
    return None
