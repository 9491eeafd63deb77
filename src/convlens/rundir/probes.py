"""Read the probes of a run: their photographs, classes and sources."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from convlens.core.photograph import WHOLE, Frame

TABLE = "probes.tsv"


@dataclass(frozen=True)
class StoredProbe:
    """A probe in a run folder.

    Attributes:
        name: its name in tags.
        source: the name by which a user finds the image.
        label: its true class; empty if unknown.
        photograph: the file that shows it at its own proportions; None if there is none.
        frame: the part that the network sees, see ``convlens.core.photograph.Photograph``.
        seen: what the network sees of it, likewise.
    """

    name: str
    source: str = ""
    label: str = ""
    photograph: Path | None = None
    frame: Frame = WHOLE
    seen: str = ""


def read_probes(folder: Path) -> dict[str, StoredProbe]:
    """Return the probes in a run's folder ``probes`` by name; none if it has no table of them.

    Raises:
        ValueError: the table is not what a run writes.
    """
    if not (folder / TABLE).is_file():
        return {}
    text = (folder / TABLE).read_text(encoding="utf-8", errors="replace")
    head, *lines = text.splitlines()
    columns, found = head.split("\t"), {}
    for line in lines:
        cells = line.split("\t", len(columns) - 1)  # a source may contain tabs
        values = dict(zip(columns, cells, strict=True))
        name = values["probe"]
        photographs = (folder / f"{name}{ending}" for ending in (".jpg", ".png"))
        left, top, right, bottom = map(float, values.get("frame", "0,0,1,1").split(","))
        found[name] = StoredProbe(
            name, values["source"], values.get("class", ""),
            next((file for file in photographs if file.is_file()), None),
            (left, top, right, bottom), values.get("seen", ""),
        )  # fmt: skip
    return found
