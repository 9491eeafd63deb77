"""``make shortcuts ckpt=FILE``: what one place in the images, or a group of them, decides.

By default it searches the run's validation images; ``split=test`` takes those that ``make eval``
would test.
"""

from __future__ import annotations

from convlens.cli.words import RECIPE, Keys, Word, Words, extract_words, read_count
from convlens.config.targets import is_target
from convlens.core.errors import UserError, nearest
from convlens.core.loading import loading_libraries
from convlens.core.progress import progress_bar
from convlens.experiment.inputs import find_checkpoint
from convlens.rundir.paths import OUTPUTS, check_free, make_folder, make_fresh_folder

SPLITS = ("train", "validation", "test")
WORDS: Words = {
    "ckpt": Word("the checkpoint; last is the newest run's best one", form="FILE"),
    "run": Word(
        "instead of ckpt: the run whose best checkpoint is searched; last is the newest run",
        form="RUN_DIR",
    ),
    "split": Word("which images", form="SPLIT", default="validation", values=SPLITS),
    "images": Word("how many images, evenly spread; default: all", form="COUNT"),
    "run_dir": Word("the folder to write; default: a new one in outputs/shortcuts/", form="DIR"),
    "config_dir": RECIPE["config_dir"],
}
SETTINGS = ("callbacks.shortcuts.", "callbacks.slices.")
LIVE = ("pictures", "every_n_epochs")  # settings of the callbacks alone
KEYS = Keys(
    ("data.", *SETTINGS),
    refused=(*(f"{group}{name}" for group in SETTINGS for name in LIVE), "callbacks.slices.batch"),
    is_composed=False,
    hidden=("data.name", "data.augment.", "data.split."),
)


def run(words: list[str]) -> int:
    values, overrides = extract_words(words, WORDS)
    ckpt, home, split = values["ckpt"], values["run"], values["split"] or ""
    most = None if values["images"] is None else read_count(values, "images")
    if split not in SPLITS:
        raise UserError(f"split={split}: {nearest(split, SPLITS)}")
    if (ckpt is None) == (home is None):
        raise UserError("shortcuts needs ckpt=FILE or run=RUN_DIR, one of them; last is the newest")
    for word in overrides:
        key = word.partition("=")[0]
        if not (KEYS.accepts(key) or key in ("data", "config_dir") or is_target(key)):
            raise UserError(f"{word}: shortcuts takes data.* and {'* and '.join(SETTINGS)}*")
    path = find_checkpoint(ckpt, home)
    check_free(values["run_dir"] or "", "shortcuts.csv")
    with loading_libraries():
        from pathlib import Path

        from convlens.experiment.shortcut_files import describe_result, write_result
        from convlens.experiment.shortcuts import prepare_search, search_images

    with progress_bar("reading the network and the images"):
        search = prepare_search(path, overrides, split)
    if values["run_dir"] is None:
        folder = make_fresh_folder(OUTPUTS / "shortcuts")
    else:
        make_folder(folder := Path(values["run_dir"]).expanduser())
    for line in search.own.lines:
        print(line)
    with progress_bar("searching for shortcuts") as work:
        result = search_images(search, work, most=most)
    count = len(result.labels)
    print(f"{count} images: {search.own.place}; {path}")
    for line in describe_result(result):
        print(line)
    with progress_bar("drawing the sheets"):
        write_result(folder, result, title=f"{count} images, {search.own.place}")
    print(f"sheets, shortcuts.csv, slices.csv, clusters.csv  {folder}")
    return 0
