"""The scaling benchmark's figures as a table, printed and written into the documentation."""

from pathlib import Path

from results import processor
from rounds import available_cores

DOCS = Path(__file__).resolve().parents[1] / "docs" / "scaling.md"
BEGIN, END = "<!-- scaling: begin -->", "<!-- scaling: end -->"
NAMES = {
    "index": "indexing",
    "split_file": "`split.csv`, written and read",
    "pixels": "pixel cache, made",
    "pixels_again": "pixel cache, opened again",
    "features": "feature cache, made",
    "epoch": "an epoch's batches",
}


def table(result: dict, sizes: list[int]) -> list[str]:
    """Lines of a Markdown table: a row a stage, the medians at each size, last against first.

    Args:
        result: by stage and size ``microseconds``, ``bytes_held`` and ``bytes_peak`` with medians.
        sizes: numbers of pictures, in the order of the columns.
    """
    head = [f"{size:,}" for size in sizes]
    ratio = f"{head[-1]} : {head[0]}"
    lines = [
        f"| a picture's cost | {' | '.join(head)} | {ratio} |",
        "|---|" + "--:|" * (len(sizes) + 1),
    ]
    for key, unit, digits in (
        ("microseconds", "µs", 1), ("bytes_held", "bytes kept", 0), ("bytes_peak", "bytes, peak", 0)
    ):  # fmt: skip
        for stage, by_size in result.items():
            values = [by_size[str(size)][key]["median"] for size in sizes]
            shown = [f"{value:.{digits}f}" for value in values]
            against = f"{values[-1] / values[0]:.2f}" if values[0] > 0 else "–"
            lines.append(f"| {NAMES[stage]}, {unit} | {' | '.join(shown)} | {against} |")
    return lines


def write_docs(result: dict, sizes: list[int], classes: dict[int, int], rounds: int) -> None:
    """Put the table between the marks of ``docs/scaling.md``."""
    before, mark, rest = DOCS.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise SystemExit(f"{DOCS} has no {BEGIN} … {END}")
    told = ", ".join(f"{many:,} for {size:,}" for size, many in classes.items())
    about = (
        f"Medians of {rounds} rounds on {len(available_cores())} cores ({processor()}); classes: "
        f"{told}."
    )
    text = "\n".join([BEGIN, about, "", *table(result, sizes), END])
    DOCS.write_text(before + text + after, encoding="utf-8")
    print(f"written: {DOCS}")
