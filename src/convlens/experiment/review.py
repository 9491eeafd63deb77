"""Write ``review.html``: go through the suspected labels of a run, and save corrections."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from convlens.config.stored import StoredConfig
from convlens.core.command_lines import command_line
from convlens.core.errors import UserError, nearest
from convlens.core.files import write_atomic
from convlens.data.index.digests import digest
from convlens.data.index.labels import SPLITS
from convlens.data.index.tables import CSV_COLUMNS, read_table
from convlens.data.pixels.decode import ImageError, Recipe
from convlens.data.pixels.load import pillow_settings
from convlens.data.pixels.photograph import read_photograph
from convlens.data.sources.corrections import COPY, read_corrections
from convlens.draw.jpeg import encode_jpeg, encode_png
from convlens.pages.render import data_uri
from convlens.pages.review import render_review
from convlens.rundir.paths import OUTPUTS
from convlens.rundir.read import convert_run_errors, read_config
from convlens.rundir.runs import find_newest_run

AUDIT, DIARY, SUSPECTS = "mislabelled.csv", "diary.csv", "suspects.csv"
CHOICES = (*SPLITS, "all")
_SMALL = 160  # longest side in pixels of images that are shown without loss


def write_review(home: Path, images: str, split: str = "train") -> Path:
    """Write the page into the run folder, and return its path.

    Training images are those of ``diary.csv``, in the order of ``mislabelled.csv`` after an audit;
    others are those of ``suspects.csv``, which come first.
    The page contains the images, and needs nothing else. The browser keeps the answers under a name
    made of the run folder and its labels. Corrections that the run was trained with are part of
    what the page saves, unless they are answered otherwise.

    Args:
        home: the run folder.
        images: how many images at most, a whole number from 1 on; the most suspicious come first.
        split: whose labels, one of ``CHOICES``.

    Raises:
        UserError: there is no run or no table; no image of the split is suspected; images have
            several classes, are not files, or are not where they were; ``images`` or ``split`` is
            something else.
    """
    if split not in CHOICES:
        raise UserError(f"split={split}: {nearest(split, CHOICES)}")
    if not (images.isascii() and images.isdigit() and int(images)):
        raise UserError(f"images={images}: expected a whole number from 1 on")
    config, rows = read_config(home), _read_diary(home)
    with convert_run_errors(home):
        rows = _follow_audit(home, rows)
        held_out = [] if split == "train" else _read_suspects(home, split)
        every = [*held_out, *rows]
        names = _find_names(home, [row["file"] for row in every])
        earlier = read_corrections(home / COPY) if (home / COPY).is_file() else []
        start, given = _find_start(home, config), {each.file: each.given for each in earlier}
        count = len(every) if split in ("train", "all") else len(held_out)
        chosen = list(zip(every, names, strict=True))[: min(count, int(images))]
        entries = [_describe(row, name, given.get(name), start) for row, name in chosen]
    if not any(entry["picture"] for entry in entries):
        raise _images_error(home, start / rows[0]["file"])
    labels = sorted((name, row["class"]) for row, name in zip(every, names, strict=True))
    key = f"convlens-review-{digest(os.path.abspath(home), labels, *[split] * (split != 'train'))}"
    classes = sorted({row["class"] for row in rows})
    table = [[each.file, each.given, each.wanted] for each in earlier]
    before = (config.plain.get("data") or {}).get("corrections_of") or ()
    corrected = [each for each in SPLITS if each in ("train", split, *before) or split == "all"]
    page = render_review(home.resolve().name, key, entries, classes, table, corrected)
    file = home / ("review.html" if split == "train" else f"review_{split}.html")
    write_atomic(file, page)
    return file


def find_newest() -> Path:
    """Return the newest run whose labels can be reviewed, for ``run=last``.

    Raises:
        UserError: there is none.
    """
    return find_newest_run(check=_check_reviewable)


def _check_reviewable(home: Path) -> None:
    """Check that the labels of a run can be reviewed.

    Raises:
        UserError: they cannot.
    """
    rows = _read_diary(home)
    with convert_run_errors(home):
        start = _find_start(home, read_config(home))
    if not any((start / row["file"]).is_file() for row in rows):
        raise _images_error(home, start / rows[0]["file"])


def _read_diary(home: Path) -> list[dict[str, str]]:
    """Return the rows of a run's diary.

    Raises:
        UserError: there is none, or its labels cannot be reviewed.
    """
    read_config(home)
    if not (home / DIARY).is_file():
        raise UserError(
            f"{home} has no {DIARY}: it is written after the first epoch, and not with diary=null"
        )
    if not (home / "split.csv").is_file():
        raise UserError(f"{home}: its images are not files, so their labels cannot be corrected")
    with convert_run_errors(home):
        rows = [row for _, row in read_table(home / DIARY, ("file", "class"), DIARY, strip=False)]
        if not rows or "labelled" in rows[0]:
            what = "images with several classes" if rows else "a diary without rows"
            raise UserError(f"{home}: {what} cannot be reviewed; read {DIARY} instead")
    return rows


def _images_error(home: Path, image: Path) -> UserError:
    return UserError(
        f"{home}: no image can be read, such as {image}: run {command_line('review')} where the "
        "run was started, with its images in place"
    )


def _follow_audit(home: Path, rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return rows of the diary in the order of the audit, with its suspects; as they are without.

    Raises:
        UserError: the audit is about other labels.
    """
    if not (home / AUDIT).is_file():
        return rows
    columns = ("file", "class", "aum", "other", "suspected")
    judged = [row for _, row in read_table(home / AUDIT, columns, AUDIT, strip=False)]
    known = {(row["file"], row["class"]): row for row in rows}
    if known.keys() != {(row["file"], row["class"]) for row in judged}:
        again = command_line("audit", run=home)
        raise UserError(f"{home}: {AUDIT} and {DIARY} differ in images or labels: `{again}`")
    return [known[row["file"], row["class"]] | row for row in judged]


def _read_suspects(home: Path, split: str) -> list[dict[str, str]]:
    """Return the rows of ``suspects.csv`` about a split, or all of them.

    Raises:
        UserError: there is no such file, or no such row.
    """
    file = home / SUSPECTS
    if not file.is_file():
        raise UserError(f"{home} has no {SUSPECTS}: it is written at the end of a run")
    columns = ("split", "file", "class", "margin", "probability", "other")
    rows = [row for _, row in read_table(file, columns, SUSPECTS, strip=False)]
    rows = [row for row in rows if split in (row["split"], "all")]
    if not rows and split != "all":
        raise UserError(f"{home}: no label of a {split} image is suspected; nothing to review")
    return rows


def _find_names(home: Path, files: list[str]) -> list[str]:
    """Return the names in ``split.csv`` of images by their paths in the diary.

    A path is the data set's folder and the name. That folder is what all rows have in common; it
    does not matter where the data set is now.

    Raises:
        UserError: the two tables do not fit.
    """
    table = read_table(home / "split.csv", CSV_COLUMNS, "the split file", strip=False)
    listed = {row["file"] for _, row in table}
    paths = [Path(file).as_posix() for file in files]
    outside = {path for path in paths if path in listed and os.path.isabs(path)}
    folders: set[str] | None = None
    for path in paths:
        if path not in outside:
            cuts = [0, *(k + 1 for k, letter in enumerate(path) if letter == "/")]
            here = {path[:cut] for cut in cuts if path[cut:] in listed}
            folders = here if folders is None else folders & here
    if folders is not None and len(folders) != 1:
        raise UserError(f"{home}: {DIARY} and split.csv are not of the same images")
    lead = len(folders.pop()) if folders else 0
    return [path if path in outside else path[lead:] for path in paths]


def _find_start(home: Path, config: StoredConfig) -> Path:
    """Return the folder that relative paths of a run refer to: that in which it was started.

    It is what stands before a relative ``run_dir`` in the place of the run folder. Otherwise it is
    not known; then, as in every command, it is the current folder.
    """
    place = home.resolve()
    own = Path(config.plain.get("run_dir") or OUTPUTS / config.experiment / place.name)
    count = len(own.parts)
    is_there = not own.is_absolute() and place.parts[-count:] == own.parts
    return Path(*place.parts[:-count]) if is_there else Path()


def _describe(row: dict[str, str], name: str, given: str | None, start: Path) -> dict[str, Any]:
    """Return what the page shows of an image, and its class in the data set.

    Args:
        row: of the diary or of the suspects.
        name: of the image in ``split.csv``.
        given: its class in the data set, if the run was trained with another one.
        start: the folder that the path in the diary is relative to.
    """
    held_out = "split" in row  # a suspect, by one answer: no means over epochs
    margin, probability = ("margin", "probability") if held_out else ("aum", "confidence")
    return {
        "file": name, "given": row["class"], "original": given or row["class"],
        "other": row.get("other", ""), "split": row.get("split", "train"),
        "suspected": held_out or bool(row.get("suspected")), "aum": row.get(margin, ""),
        "confidence": row.get(probability, ""), "picture": _draw(start / row["file"]),
    }  # fmt: skip


def _draw(path: Path) -> str:
    """Return an image file as a ``data:`` URI; "" if it cannot be read, which the page says."""
    try:
        with pillow_settings():
            picture = read_photograph(path, Recipe(8, 8)).picture
    except ImageError:
        return ""
    small = max(picture.shape) <= _SMALL
    return data_uri(encode_png(picture) if small else encode_jpeg(picture, photographs=True))
