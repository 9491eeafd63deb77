"""The one table of `make bench`: rows from rounds, targets, as text, Markdown and JSON."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import NamedTuple

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
HEAD = ("row", "convlens", "beside", "peer", "ratio (from to)", "target", "met")


class Row(NamedTuple):
    """What a row compares.

    Attributes:
        name: as `--rows` has it.
        what: is measured, with its unit in brackets.
        beside: the peer.
        at_least: the median ratio hoped for, where the ratio says how many times better convlens
            is; or None.
        at_most: likewise, where the ratio is a cost: ours / peer.
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
    """What both sides took or reached in each round, and the ratios formed within the rounds.

    Attributes:
        note: what a reader of the row should know.
        whole: the ratio over all rounds together, shown in place of the median where the rounds
            share a budget.
        at_most: the row's target where it depends on what was measured.
    """

    ours: list[float]
    peer: list[float]
    ratios: list[float]
    note: str = ""
    whole: float | None = None
    at_most: float | None = None


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and greatest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def met(row: Row, ratio: float) -> bool | None:
    """Whether a median ratio meets the row's target; None where there is none."""
    if row.at_least is not None:
        return ratio >= row.at_least
    return ratio <= row.at_most if row.at_most is not None else None


def measured(row: Row, rounds: Rounds) -> dict:
    """The row as the JSON file holds it.

    Raises:
        ValueError: no rounds, or not as many of one side as of the other.
    """
    if not rounds.ratios or not len(rounds.ours) == len(rounds.peer) == len(rounds.ratios):
        raise ValueError(f"{row.name}: rounds of both sides are needed, and as many of each")
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
    """A row that could not be measured, and why, in one line."""
    return {
        "row": row.name, "what": row.what, "beside": row.beside, "target": row.target,
        "met": None if row.target == "" else False, "failed": " ".join(reason.split()),
    }  # fmt: skip


def number(value: float) -> str:
    """Three digits that count: 0.0123, 1.97, 32.1, 1234."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def ratio_text(ratio: dict[str, float]) -> str:
    """Median and span; a third digit behind the point near one, where it decides."""
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
    """For the screen: columns of even width; notes below."""
    table = [HEAD, *map(cells, lines)]
    # the last column may hold a failed row's reason
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
    """Replace what stands between the two marks in ``file``.

    Raises:
        ValueError: the marks are missing, or not in this order.
    """
    old = file.read_text(encoding="utf-8")
    before, mark, rest = old.partition(BEGIN)
    _, close, after = rest.partition(END)
    if not mark or not close:
        raise ValueError(f"{file}: no {BEGIN} with {END} behind it")
    file.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
