"""``make audit run=RUN_DIR``: a cut for wrong training labels, with a stated rate."""

from __future__ import annotations

from pathlib import Path

from convlens.cli.words import Word, Words, parse_words
from convlens.core.command_lines import command_line
from convlens.core.errors import UserError
from convlens.core.loading import loading_libraries
from convlens.core.processes import is_launched_externally
from convlens.rundir.runs import find_newest_run

WORDS: Words = {
    "run": Word(
        "the run folder, whose recipe is trained twice more; last is the newest run",
        form="RUN_DIR", required=True, synonyms=("run_dir",),
    ),
    "catch": Word(
        "how many of the labels that are certainly wrong the cut must catch, as a fraction",
        form="FRACTION", default="0.99",
    ),
}  # fmt: skip
NOTES = (
    "A random part of the training images gets a class of its own, once in each training. The",
    "trainings are kept in RUN_DIR/audit/, so that another catch=… does not train again.",
)


def run(words: list[str]) -> int:
    given = parse_words(words, "audit", WORDS)
    if is_launched_externally():
        raise UserError("audit starts its trainings itself: call it without torchrun or srun")
    name = given["run"]
    home = find_newest_run("diary.csv") if name == "last" else Path(name).expanduser()
    with loading_libraries():
        from convlens.experiment.audit import audit

    found = audit(home, given["catch"])
    print(
        f"{found.suspected} of {len(found.labels)} training labels are suspected: the cut catches "
        f"{float(given['catch']):.4g} of those that are certainly wrong"
    )
    print(f"{found.file}; go through them with `{command_line('review', run=home)}`")
    return 0
