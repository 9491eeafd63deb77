"""Which checkpoint a person means, and which run it belongs to."""

from __future__ import annotations

from pathlib import Path

from convlens.rundir.runs import newest_run

# a small trained network and images of `shapes`
EXAMPLE = Path(__file__).parents[1] / "example"
EXAMPLE_NAME = "example"  # what ckpt= says for it
FOLDER = "checkpoints"  # of a run


def checkpoint_path(asked: str | None, home: str | None) -> Path:
    """The checkpoint that ``ckpt=`` or ``run=`` names; for a run, its best.

    ``last`` is the newest run that has one, ``example`` the network that comes with the package.
    """
    if asked == EXAMPLE_NAME:
        return EXAMPLE / "shapes.ckpt"
    if asked not in (None, "last"):
        return Path(asked).expanduser()
    newest = asked == "last" or home == "last"
    best = Path(FOLDER) / "best.ckpt"
    return (newest_run(str(best)) if newest else Path(home).expanduser()) / best


def run_of(checkpoint: Path) -> Path | None:
    """The folder of the run that a checkpoint lies in; None of a file by itself."""
    return checkpoint.parent.parent if checkpoint.parent.name == FOLDER else None
