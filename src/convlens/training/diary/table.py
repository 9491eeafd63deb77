"""``diary.csv``: a row per label, the most suspicious first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from convlens.core.files import open_atomic
from convlens.data.index.tables import format_csv_line
from convlens.training.diary.diary import Diary, quote

FILE = "diary.csv"


def write_table(file: Path, diary: Diary) -> None:
    """Write the table of a diary, completely or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    with open_atomic(file, errors="surrogateescape", newline="") as table:
        table.writelines(_lines(diary))


def _lines(diary: Diary) -> Iterator[str]:
    ranked, record, quoted_files = diary.rank(), diary.record, diary.quoted_files
    quoted = [quote(name) for name in diary.class_names]
    rows, classes = ranked.T
    place = (rows, classes) if diary.several else rows
    arrays = record.arrays
    columns = {
        "aum": record.aum, "loss": record.mean("loss"), "confidence": record.confidence,
        "variability": record.variability,
    }  # fmt: skip
    counts = {name: arrays[name] for name in ("right", "forgotten", "learned", "seen")}
    mixed = not np.array_equal(arrays["weight"], arrays["seen"])
    if mixed:
        columns["share"] = np.divide(
            arrays["weight"], arrays["seen"], out=np.full(arrays["weight"].shape, np.nan),
            where=arrays["seen"] > 0,
        )  # fmt: skip
    flags = np.any([each.flags for each in diary.find_suspects()], axis=0)[place]
    if diary.several:
        given = np.where(diary.labels[place], "present", "absent")
        texts = {"labelled": given, "suspected": np.where(given == "absent", "present", "absent")}
    else:
        other = np.array(quoted, dtype=object)[arrays["other"][place]]
        other = np.where(arrays["lead"][place] > 0, other, "")
        texts = {"other": other, "suspected": other}
    texts["suspected"] = np.where(flags, texts["suspected"], "")
    yield format_csv_line(["file", "class", *columns, *counts, *texts])
    numbers = [np.asarray(each[place], float).tolist() for each in columns.values()]
    whole = [each[place].tolist() for each in counts.values()]
    form = ",".join(["%s,%s", *["%.6g"] * len(columns), *["%d"] * 4, "%s,%s"]) + "\n"
    files = [quoted_files[row] for row in rows.tolist()]
    titles = [quoted[number] for number in classes.tolist()]
    lines = map(form.__mod__, zip(files, titles, *numbers, *whole, *texts.values(), strict=True))
    if (arrays["seen"] > 0).all():
        yield from lines
    else:
        yield from (line.replace(",nan", ",") for line in lines)
