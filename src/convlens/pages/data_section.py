"""The report's section on the images of a run, from ``data.json``."""

from __future__ import annotations

from typing import Any

from convlens.rundir.read import StoredRun

MANY = 20  # with more classes, the table is folded


def describe_data(run: StoredRun) -> dict[str, Any] | None:
    """Return the values of ``data_section.html``; None if the run has no ``data.json``.

    Args:
        run: a run, finished or not.
    """
    facts = run.data_facts
    if facts is None:
        return None
    splits = facts["images"]
    counts = list(zip(*splits.values(), strict=True))  # a row for each class
    largest = max(map(sum, counts))
    rows = [
        {"name": name, "counts": row, "widths": [100 * count / largest for count in row]}
        for name, row in zip(facts["classes"], counts, strict=True)
    ]
    train = splits["train"]
    most, least = max(train), min(train)
    reasons = facts["skipped"]["reasons"]
    return {
        **facts,
        "conflicts": facts.get("conflicts"),  # earlier versions did not record them
        "rows": rows,
        "totals": facts.get("totals") or {split: sum(each) for split, each in splits.items()},
        "folded": len(rows) > MANY,
        "most": {"count": most, "name": facts["classes"][train.index(most)]},
        "least": {"count": least, "name": facts["classes"][train.index(least)]},
        "other_reasons": facts["skipped"]["count"] - sum(count for _, count in reasons),
    }
