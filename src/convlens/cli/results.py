"""What a command prints at its end."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

WIDTH = 120  # of tables where no terminal tells its own
HEADLINE = ("loss", "accuracy", "balanced_accuracy")
FEW = 3  # classes whose F1 scores fit a line; summary.json holds them all
# columns of a table, by their heading: names, of which the whole is seen; numbers
folded, whole, right = (
    partial(Column, **how)
    for how in ({"overflow": "fold"}, {"no_wrap": True}, {"justify": "right"})
)


def screen() -> Console:
    """Where tables go; class names and paths are text, not markup."""
    console = Console(markup=False)
    return console if console.is_terminal else Console(markup=False, width=WIDTH)


def results_table(title: str, rows: dict[str, dict[str, float]]) -> None:
    """A line for each split: loss, accuracy, balanced accuracy; F1 by class where there are few."""
    names = list(dict.fromkeys(key for values in rows.values() for key in values))
    classes = [name for name in names if name.startswith("f1/")]
    shown = [n for n in HEADLINE if n in names] + (classes if len(classes) <= FEW else [])
    # the name of a class stays as it is
    headings = [f"F1 {n[3:]}" if n in classes else n.replace("_", " ") for n in shown]
    print(title)
    table = Table(whole(""), *map(right, headings))
    for row, values in rows.items():
        table.add_row(row, *(f"{values[n]:.4f}" if n in values else "" for n in shown))
    screen().print(table)


def seconds_line(seconds: Mapping[str, float]) -> str:
    """All seconds, and what they were spent on, where it is a half or more.

    >>> seconds_line({"total": 12.9, "setup": 3.0, "training": 9.6, "report": 0.3})
    '12.9 s: setup 3.0, training 9.6, other 0.3'
    """
    parts = {name: value for name, value in seconds.items() if name not in ("total", "other")}
    shown = {name: value for name, value in parts.items() if value >= 0.5}
    shown["other"] = seconds["total"] - sum(shown.values())
    told = ", ".join(f"{name} {value:.1f}" for name, value in shown.items())
    return f"{seconds['total']:.1f} s: {told}"


def closing(home: Path, summary: dict) -> None:
    """Results, alarms, and where everything is."""
    best = summary["best_epoch"]
    results_table(
        f"{summary['experiment']}: {summary['epochs']} epochs, best is {best} "
        f"(lowest validation loss)",
        {
            "train, last epoch": summary["train"],
            f"validation, epoch {best}": summary["val"],
            "validation, last epoch": summary["val_last"],
            f"test, epoch {best}": summary["test"],
        },
    )
    print(f"{seconds_line(summary['seconds'])}; {summary['images_per_second']:.0f} images/s")
    for line in (*summary["alarms"], *summary["failures"]):
        print(f"! {line}")
    print(f"run folder       {home}")
    print(f"best checkpoint  {home / 'checkpoints' / 'best.ckpt'}")
    print(f"report           {home / 'report.html'}")
    print(f"TensorBoard      make tensorboard   (reads {home / 'tensorboard'})")
