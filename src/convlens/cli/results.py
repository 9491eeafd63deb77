"""Tables and lines that commands print at their end."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from convlens.cli.layout import WIDTH
from convlens.core.command_lines import command_line

HEADLINE = ("loss", "accuracy", "balanced_accuracy", "mean_ap")
KEY = re.compile(r"\blooking\.[a-z_]+")
NAMED = 3  # explanations named in one line; summary.json lists all of them
FEW = 3  # the F1 scores of more classes do not fit on a line; summary.json lists all of them
CLASSES = 20  # of the table of classes; results.json lists more
# kinds of columns, by their heading: text that wraps, names that never do, numbers
folded, whole, right = (
    partial(Column, **how)
    for how in ({"overflow": "fold"}, {"no_wrap": True}, {"justify": "right"})
)


def screen() -> Console:
    """Return the console for tables; class names and paths are printed as text, not as markup."""
    console = Console(markup=False)
    return console if console.is_terminal else Console(markup=False, width=WIDTH)


def print_results(title: str, rows: dict[str, dict[str, float]]) -> None:
    """Print a row per split: loss, accuracy, balanced accuracy, and F1 of each class if few.

    Args:
        title: the line above the table.
        rows: split -> metric -> value.
    """
    names = list(dict.fromkeys(key for values in rows.values() for key in values))
    classes = [name for name in names if name.startswith("f1/")]
    columns = [n for n in HEADLINE if n in names] + (classes if len(classes) <= FEW else [])
    # a class keeps its name, with any underscores
    headings = [f"F1 {n[3:]}" if n in classes else n.replace("_", " ") for n in columns]
    print(title)
    table = Table(whole(""), *map(right, headings))
    for row, values in rows.items():
        table.add_row(row, *(f"{values[n]:.4f}" if n in values else "" for n in columns))
    screen().print(table)


def print_details(details: Mapping[str, Any]) -> None:
    """Print the scores of a test with their intervals, and a row for each class if not too many.

    Args:
        details: see ``convlens.training.details``.
    """
    table = Table(whole("score"), right("value"), right("95 % interval"))
    for name, score in details["scores"].items():
        interval = f"{score['low']:.4f} to {score['high']:.4f}" if "low" in score else ""
        table.add_row(name.replace("_", " "), f"{score['value']:.4f}", interval)
    screen().print(table)
    if "calibration" in details:
        print(describe_calibration(details["calibration"]))
    rows = details["classes"]
    if len(rows) > CLASSES:
        print(f"results.json has the scores of all {len(rows)} classes")
        return
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    table = Table(folded("class"), *(right(key.replace("_", " ")) for key in columns))
    for name, row in rows.items():
        cells = (row.get(key, "") for key in columns)
        table.add_row(name, *(f"{c:.4f}" if isinstance(c, float) else str(c) for c in cells))
    screen().print(table)


def describe_interval(details: Mapping[str, Any]) -> str:
    """Return the interval of the test accuracy in one line.

    >>> score = {"value": 0.9, "low": 0.85, "high": 0.94}
    >>> describe_interval({"images": 150, "scores": {"accuracy": score}})
    'test accuracy 0.9000, 95 % interval 0.8500 to 0.9400 (150 images)'
    """
    score = details["scores"]["accuracy"]
    return (
        f"test accuracy {score['value']:.4f}, 95 % interval {score['low']:.4f} to "
        f"{score['high']:.4f} ({details['images']} images)"
    )


def describe_calibration(found: Mapping[str, Any]) -> str:
    """Return temperature, calibration errors and the highest precision with answers in one line.

    Args:
        found: see ``convlens.training.calibration.describe_calibration``.

    >>> row = {"test_coverage": 0.91, "test_precision": 0.988}
    >>> found = {"temperature": 1.5, "test_ece": 0.08, "test_ece_calibrated": 0.01}
    >>> describe_calibration({**found, "abstain": {"0.95": row, "0.99": None}})
    'calibration error of the test 0.0800, or 0.0100 with the temperature 1.5; abstain=0.95 \
answers 91.0 % of the test images, 98.8 % of them correctly'
    >>> describe_calibration({**found, "abstain": {}, "uncalibrated": "why"})
    'calibration error of the test 0.0800, no temperature (why)'
    """
    calibrated, temperature = found["test_ece_calibrated"], found["temperature"]
    with_it = f"or {calibrated:.4f} with the temperature {temperature:.3g}"
    if "uncalibrated" in found:
        with_it = f"no temperature ({found['uncalibrated']})"
    line = f"calibration error of the test {found['test_ece']:.4f}, {with_it}"
    supported = [(key, row) for key, row in found["abstain"].items() if row]
    if not supported:
        return line
    precision, row = supported[-1]
    line += f"; abstain={precision} answers {row['test_coverage']:.1%} of the test images"
    if row["test_precision"] is not None:
        line += f", {row['test_precision']:.1%} of them correctly"
    return line.replace("%", " %")


def format_seconds(seconds: Mapping[str, float]) -> str:
    """Return the total seconds and their parts; parts below half a second count as ``other``.

    >>> format_seconds({"total": 12.9, "setup": 3.0, "training": 9.6, "report": 0.3})
    '12.9 s: setup 3.0, training 9.6, other 0.3'
    """
    parts = {name: value for name, value in seconds.items() if name not in ("total", "other")}
    long = {name: value for name, value in parts.items() if value >= 0.5}
    long["other"] = seconds["total"] - sum(long.values())
    text = ", ".join(f"{name} {value:.1f}" for name, value in long.items())
    return f"{seconds['total']:.1f} s: {text}"


def print_closing(home: Path, summary: dict) -> None:
    """Print the results, the alarms, what to look at first and where, and what was left out.

    Args:
        home: the run folder.
        summary: its ``summary.json``.
    """
    best, last = summary["best_epoch"], summary["epochs"]
    rows = {
        f"train, epoch {last}": summary["train"],
        f"validation, epoch {best}": summary["val"],
        f"validation, epoch {last}": summary["val_last"],  # the same row if the last is the best
        f"test, epoch {best}": summary["test"],
    }
    title = f"{summary['experiment']}: best epoch {best} of {last} (lowest validation loss)"
    print_results(title, rows)
    if details := summary.get("test_details"):
        print(describe_interval(details))
        if "calibration" in details:
            print(describe_calibration(details["calibration"]))
    print(f"{format_seconds(summary['seconds'])}; {summary['images_per_second']:.0f} images/s")
    for line in drop_repeated_advice(summary["alarms"]):
        print(f"! {line}")
    for line in summary["failures"]:  # reported in full when it happened
        print(f"! {line.partition(': ')[0]}; the reason is in {home / 'train.log'}")
    print(f"look first at    {home / 'report.html'}")
    print(f"best checkpoint  {home / 'checkpoints' / 'best.ckpt'}")
    if (home / "tensorboard").exists():
        print(f"all pictures     {command_line('tensorboard')}")
    if summary["left_out"]:
        print(f"left out         {describe_left_out(summary['left_out'])}")


def drop_repeated_advice(alarms: Sequence[str]) -> list[str]:
    """Return alarms without advice that the next alarm repeats, so that it appears only once.

    >>> drop_repeated_advice(["a is off; look at x", "b is off; look at x", "c is off; look at y"])
    ['a is off', 'b is off; look at x', 'c is off; look at y']
    """
    advice = [line.partition("; ")[2] for line in alarms] + [""]
    return [
        line.partition("; ")[0] if advice[n] == advice[n + 1] else line
        for n, line in enumerate(alarms)
    ]


def describe_left_out(lines: Mapping[str, str]) -> str:
    """Return which explanations had too little time, and which keys give them more.

    Args:
        lines: what the budget left out, by explanation.

    >>> describe_left_out({"GradCam": "GradCam: out of time at epoch 1; raise looking.seconds"})
    'some pictures of GradCam, for lack of time; raise looking.seconds'
    """
    keys = dict.fromkeys(key for line in lines.values() for key in KEY.findall(line))
    raised = " and ".join(keys or ["looking.seconds"])
    names = ", ".join([*lines][:NAMED])
    more = f" and {len(lines) - NAMED} more" if len(lines) > NAMED else ""
    return f"some pictures of {names}{more}, for lack of time; raise {raised}"
