"""Write ``review.html``: go through the suspected labels of a run, and save corrections."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from markupsafe import Markup

from convlens.core.errors import UserError
from convlens.core.files import write_atomic
from convlens.draw.jpeg import shrink_jpeg
from convlens.pages.render import data_uri, render
from convlens.rundir.read import read_config

FILE, DIARY = "review.html", "diary.csv"
_EDGE, _QUALITY = 480, 80  # longest side of an image in pixels, quality of its JPEG


def write_review(home: Path, images: int | str) -> Path:
    """Write the page into the run folder, and return its path.

    The page contains the images; the browser loads nothing, and keeps the answers under a name that
    is made of the run's folder and its list of images.

    Args:
        home: the run folder.
        images: how many images at most, the most suspicious first.

    Raises:
        UserError: the run has no diary, its images have several classes or are not files, an image
            cannot be read, or ``images`` is not a whole number from 1 on.
    """
    if not str(images).isdigit() or not int(images):
        raise UserError(f"images={images}: expected a whole number from 1 on")
    config, table = read_config(home), home / DIARY
    if not table.is_file():
        raise UserError(
            f"no {DIARY} in {home}: the run has no diary; train with a diary (diary=null has none)"
        )
    if not (home / "split.csv").is_file():
        raise UserError(f"{home}: its images are not files, so their labels cannot be corrected")
    listed = {row["file"] for row in _read(home / "split.csv", "file")}
    folder = (config.plain.get("data") or {}).get("dir")
    rows, classes = [], set()
    for number, row in enumerate(_read(table, "file", "class")):
        if "labelled" in row:
            raise UserError(
                f"{home}: images with several classes cannot be reviewed; read {DIARY} instead"
            )
        classes.add(row["class"])
        if number < int(images):
            rows.append(row)
    entries = [_describe(row, folder, listed) for row in rows]
    key = hashlib.sha256(
        json.dumps([os.path.abspath(home), [e["file"] for e in entries]]).encode(
            "utf-8", "surrogateescape"
        )
    ).hexdigest()
    data = {"entries": entries, "classes": sorted(classes), "key": f"convlens-review-{key[:16]}"}
    text = json.dumps(data, separators=(",", ":"))
    for character in "<>&":  # no name may end the script element, or open a comment in it
        text = text.replace(character, f"\\u{ord(character):04x}")
    page = render("review.html", data=Markup(text), name=home.resolve().name)
    write_atomic(home / FILE, page)
    return home / FILE


def _describe(row: dict[str, str], folder: str | None, listed: set[str]) -> dict[str, Any]:
    """Return the values of an image for the page; its name is that of ``split.csv`` if possible."""
    path = Path(row["file"])
    name = os.path.abspath(path)
    if folder and path.is_relative_to(Path(folder).expanduser()):
        below = path.relative_to(Path(folder).expanduser()).as_posix()
        name = below if below in listed else name
    try:
        picture = data_uri(shrink_jpeg(path.read_bytes(), _EDGE, _QUALITY))
    except (OSError, ValueError):
        picture = ""  # the page says that the image cannot be shown
    return {
        "file": name, "given": row["class"], "aum": row.get("aum", ""),
        "suspected": row.get("suspected") or row.get("other") or "", "picture": picture,
    }  # fmt: skip


def _read(path: Path, *columns: str) -> list[dict[str, str]]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = list(csv.DictReader(file, restval=""))
    except (OSError, csv.Error) as error:
        raise UserError(f"cannot read {path} as a table: {error}") from None
    if rows and not rows[0].keys() >= set(columns):
        raise UserError(f"{path} needs the columns {', '.join(columns)}: was it modified?")
    return rows
