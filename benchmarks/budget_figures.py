"""Judge whether looks kept to their budget, from the records of runs; no measuring here.

A record is what `budget.py` keeps of one run: ``network``, ``images``, ``budget``, ``load``,
``others`` (cores that anything else used, or None), ``probes`` (names), ``looks`` (those of the
run's `summary.json`), ``grad_cam`` (clock -> names of the probes drawn) and ``bytes``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rounds import BUSY

OVERRUN = 0.1  # of the allowance, beside the pass of one image
MOMENTS = ("start", "epoch", "end", "test")
HEAD = (
    "network", "images", "budget", "load", "before", "epoch", "at end", "after test",
    "Grad-CAM of probes", "kept",
)  # fmt: skip


def limit(look: dict) -> float:
    """Return the seconds that a look may take at most."""
    return (1 + OVERRUN) * max(look["allowed"], 0.0) + look["pass"]


def find_overruns(looks: Iterable[dict]) -> list[str]:
    """Return a line for each look that took longer than it may."""
    return [
        f"{look['moment']} {look['clock']}: {look['spent']:.2f} s, at most {limit(look):.2f}"
        for look in looks
        if look["spent"] > limit(look)
    ]


def find_worst(looks: Iterable[dict], moment: str) -> dict | None:
    """Return the look of a moment that came closest to its limit, or exceeded it most."""
    of_moment = [look for look in looks if look["moment"] == moment]
    return max(of_moment, key=lambda look: look["spent"] - limit(look), default=None)


def is_fair(drawn: Iterable[Iterable[str]], probes: Sequence[str]) -> bool:
    """Return whether probes were drawn in turn: none twice more often than another at any time."""
    counts = dict.fromkeys(probes, 0)
    for names in drawn:
        for name in names:
            counts[name] += 1
        if max(counts.values()) - min(counts.values()) > 1:
            return False
    return True


def is_idle(record: dict) -> bool:
    """Return whether nothing else used the machine while the run lasted, as far as is known."""
    return record["load"] == "idle" and (record["others"] is None or record["others"] <= BUSY)


def find_problems(record: dict) -> list[str]:
    """Return what a run did not keep, one line each: seconds, and Grad-CAM at every look."""
    lines = find_overruns(record["looks"])
    drawn = [record["grad_cam"][clock] for clock in sorted(record["grad_cam"], key=int)]
    if is_idle(record) and record["budget"] == "default":
        if any(len(names) < len(record["probes"]) for names in drawn):
            lines.append("Grad-CAM of some probes is missing")
    elif not is_fair(drawn, record["probes"]):
        lines.append("probes were not drawn in turn")
    return lines


def format_look(look: dict | None) -> str:
    return "" if look is None else f"{look['spent']:.2f} / {look['allowed']:.2f}"


def make_cells(record: dict) -> tuple[str, ...]:
    """Return the cells of a run: the worst look of each moment, as seconds spent / allowed."""
    counts = [str(len(record["grad_cam"][c])) for c in sorted(record["grad_cam"], key=int)]
    load = record["load"]
    if load == "idle" and not is_idle(record):
        load = f"{record['others']:.1f} cores of others"
    return (
        record["network"], f"{record['images']:,}", record["budget"], load,
        *(format_look(find_worst(record["looks"], moment)) for moment in MOMENTS),
        f"{', '.join(counts)} of {len(record['probes'])}",
        "; ".join(find_problems(record)) or "yes",
    )  # fmt: skip


def make_table(records: Iterable[dict]) -> str:
    """Return the Markdown table of all runs."""
    rule = ("---", "---:", "---", "---", "---:", "---:", "---:", "---:", "---:", "---")
    lines = [HEAD, rule, *map(make_cells, records)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def compute_seconds_per_look(records: Iterable[dict]) -> dict[str, float]:
    """Return the mean seconds of each callback's looks in which it did anything."""
    took: dict[str, list[float]] = {}
    for record in records:
        for look in record["looks"]:
            for name, seconds in look["by_callback"].items():
                if seconds >= 0.005:  # less is spent on finding out that nothing is to be drawn
                    took.setdefault(name, []).append(seconds)
    return {name: round(sum(each) / len(each), 3) for name, each in took.items()}
