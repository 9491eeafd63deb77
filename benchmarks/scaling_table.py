"""Format the results of the scaling benchmark as a table, for the screen and the docs."""

from pathlib import Path

from results import processor
from rounds import available_cores

DOCS = Path(__file__).resolve().parents[1] / "docs" / "scaling.md"
BEGIN, END = "<!-- scaling: begin -->", "<!-- scaling: end -->"
NAMES = {
    "index": "indexing",
    "split_file": "`split.csv`, written and read",
    "pixels": "pixel cache, built",
    "pixels_again": "pixel cache, reopened",
    "features": "feature cache, built",
    "epoch": "batches of an epoch",
}


def table(result: dict, sizes: list[int]) -> list[str]:
    """Return the lines of a Markdown table: one row per stage, with the median at each size.

    Args:
        result: for each stage and size, ``microseconds``, ``bytes_held`` and ``bytes_peak``, each
            with its median.
        sizes: numbers of images, in the order of the columns. The last column is the ratio of
            the last size to the first.
    """
    head = [f"{size:,}" for size in sizes]
    ratio = f"{head[-1]} : {head[0]}"
    lines = [
        f"| cost per image | {' | '.join(head)} | {ratio} |",
        "|---|" + "--:|" * (len(sizes) + 1),
    ]
    for key, unit, digits in (
        ("microseconds", "µs", 1), ("bytes_held", "bytes kept", 0), ("bytes_peak", "bytes, peak", 0)
    ):  # fmt: skip
        for stage, by_size in result.items():
            values = [by_size[str(size)][key]["median"] for size in sizes]
            cells = [f"{value:.{digits}f}" for value in values]
            growth = f"{values[-1] / values[0]:.2f}" if values[0] > 0 else "–"
            lines.append(f"| {NAMES[stage]}, {unit} | {' | '.join(cells)} | {growth} |")
    return lines


def write_docs(result: dict, sizes: list[int], classes: dict[int, int], rounds: int) -> None:
    """Write the table between the markers in ``docs/scaling.md``."""
    before, mark, remainder = DOCS.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = remainder.partition(END)
    if not mark or not end:
        raise SystemExit(f"{DOCS}: the markers {BEGIN} and {END} are missing")
    first, *others = classes.items()
    counts = f"{first[1]:,} for {first[0]:,} images"
    counts += "".join(f", {count:,} for {size:,}" for size, count in others)
    about = (
        f"Medians of {rounds} rounds on {len(available_cores())} cores ({processor()}); classes: "
        f"{counts}."
    )
    text = "\n".join([BEGIN, about, "", *table(result, sizes), END])
    DOCS.write_text(before + text + after, encoding="utf-8")
    print(f"written: {DOCS}")
