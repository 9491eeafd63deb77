"""``make review run=RUN_DIR``: a page to go through suspected labels."""

from __future__ import annotations

from pathlib import Path

from convlens.cli.words import Word, Words, parse_words
from convlens.core.loading import loading_libraries
from convlens.core.progress import progress_bar

WORDS: Words = {
    "run": Word(
        "the run folder; last is the newest that can be reviewed",
        form="RUN_DIR", required=True, synonyms=("run_dir",),
    ),
    "split": Word(
        "whose labels: of training images, or of others that the final network contradicts",
        form="SPLIT", default="train", values=("train", "validation", "test", "all"),
    ),
    "images": Word("how many images, the most suspicious first", form="N", default="200"),
}  # fmt: skip


def run(words: list[str]) -> int:
    given = parse_words(words, "review", WORDS)
    name = given["run"]
    with loading_libraries():
        from convlens.experiment.review import find_newest, write_review

    home = find_newest() if name == "last" else Path(name).expanduser()
    with progress_bar("writing the page"):
        file = write_review(home, given["images"], given["split"])
    print(f"{file}  ({file.stat().st_size / 1e6:.1f} MB)")
    return 0
