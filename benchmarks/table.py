"""The table of `make bench`: rows with their rounds and targets, as text, Markdown and JSON."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import NamedTuple

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
HEAD = ("row", "convlens", "beside", "peer", "ratio (from to)", "target", "met")


class Row(NamedTuple):
    """What a row compares.

    Attributes:
        name: name of the row in `--rows`.
        what: what is measured, with its unit in brackets.
        beside: the peer.
        at_least: target of the median ratio if the ratio is how many times better convlens is;
            None for no target.
        at_most: target if the ratio is a cost, ours / peer; None for no target.
    """

    name: str
    what: str
    beside: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def target(self) -> str:
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return f"≤ {self.at_most:.4g}" if self.at_most is not None else ""


class Rounds(NamedTuple):
    """The measurements of both sides in each round, and the ratio of each round.

    Attributes:
        ours: measurements of convlens.
        peer: measurements of the peer.
        ratios: ratio of each round.
        note: note below the table.
        whole: ratio over all rounds together, which replaces the median if the rounds share a
            budget.
        at_most: target of the row if it depends on the measurements.
    """

    ours: list[float]
    peer: list[float]
    ratios: list[float]
    note: str = ""
    whole: float | None = None
    at_most: float | None = None


def spread(values: list[float]) -> dict[str, float]:
    """Return the median, minimum and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def met(row: Row, ratio: float) -> bool | None:
    """Return whether a median ratio meets the row's target; None without a target."""
    if row.at_least is not None:
        return ratio >= row.at_least
    return ratio <= row.at_most if row.at_most is not None else None


def measured(row: Row, rounds: Rounds) -> dict:
    """Return the row for the JSON file.

    Raises:
        ValueError: there are no rounds, or the two sides have different numbers of rounds.
    """
    if not rounds.ratios or not len(rounds.ours) == len(rounds.peer) == len(rounds.ratios):
        raise ValueError(f"{row.name}: both sides need the same number of rounds, at least one")
    ratio = spread(rounds.ratios)
    if rounds.whole is not None:
        ratio["median"] = rounds.whole
    if rounds.at_most is not None:
        row = row._replace(at_most=rounds.at_most)
    return {
        "row": row.name, "what": row.what, "beside": row.beside, "target": row.target,
        "ours": spread(rounds.ours), "peer": spread(rounds.peer), "ratio": ratio,
        "met": met(row, ratio["median"]), "rounds": rounds.ratios, "note": rounds.note,
    }  # fmt: skip


def failed(row: Row, reason: str) -> dict:
    """Return a row that could not be measured, with the reason in one line."""
    return {
        "row": row.name, "what": row.what, "beside": row.beside, "target": row.target,
        "met": None if row.target == "" else False, "failed": " ".join(reason.split()),
    }  # fmt: skip


def number(value: float) -> str:
    """Format with three significant digits: 0.0123, 1.97, 32.1, 1234."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def ratio_text(ratio: dict[str, float]) -> str:
    """Format median, minimum and maximum; ratios near 1 get a third decimal."""
    digits = 3 if 0.5 < ratio["median"] < 1.5 else 2 if ratio["median"] < 20 else 0
    middle, low, high = (f"{ratio[key]:.{digits}f}" for key in ("median", "min", "max"))
    return f"{middle} ({low} to {high})"


def cells(line: dict) -> tuple[str, ...]:
    if "failed" in line:
        return (line["what"], "", line["beside"], "", "failed", line["target"], line["failed"])
    word = {True: "yes", False: "no", None: ""}[line["met"]]
    return (
        line["what"], number(line["ours"]["median"]), line["beside"],
        number(line["peer"]["median"]), ratio_text(line["ratio"]), line["target"], word,
    )  # fmt: skip


def as_text(lines: list[dict]) -> str:
    """Format the table for the screen, with notes below."""
    table = [HEAD, *map(cells, lines)]
    # the last column is not padded: it may contain the reason of a failed row
    widths = [max(len(row[i]) for row in table) for i in range(len(HEAD) - 1)]
    right = {1, 3}
    drawn = []
    for row in table:
        padded = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row[:-1], widths, strict=True))
        ]
        drawn.append("  ".join([*padded, row[-1]]).rstrip())
    notes = [f"{line['what']}: {line['note']}" for line in lines if line.get("note")]
    return "\n".join([*drawn, *notes])


def as_markdown(lines: list[dict]) -> str:
    table = [HEAD, ("---", "---:", "---", "---:", "---", "---", "---"), *map(cells, lines)]
    drawn = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table]
    notes = [f"- {line['what']}: {line['note']}" for line in lines if line.get("note")]
    return "\n".join([*drawn, "", *notes] if notes else drawn)


def put_between(file: Path, text: str) -> None:
    """Replace the text between the two markers in ``file``.

    Raises:
        ValueError: the markers are missing or in the wrong order.
    """
    old = file.read_text(encoding="utf-8")
    before, mark, remainder = old.partition(BEGIN)
    _, close, after = remainder.partition(END)
    if not mark or not close:
        raise ValueError(f"{file}: the markers {BEGIN} and {END} are missing or in the wrong order")
    file.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
