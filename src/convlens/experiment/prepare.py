"""Prepare a run folder: its log, its config, its split, the state of its images, its probes."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from convlens.config.migrate import dump_yaml
from convlens.config.schema import Config
from convlens.core.errors import UserError
from convlens.core.files import open_atomic, write_atomic
from convlens.core.processes import is_first_process
from convlens.core.stopwatch import count_seconds
from convlens.data.datamodule import PictureData
from convlens.data.facts import CONFLICT_COLUMNS, collect_facts, list_conflicts
from convlens.data.index.listing import Listing
from convlens.data.index.split_file import read_split, write_split
from convlens.data.index.tables import format_csv_line
from convlens.data.probes import Probes, choose_probes, load_user_probes
from convlens.data.sources.corrections import COPY, write_corrections
from convlens.data.sources.planted import find_place
from convlens.data.unchanged import check_state, collect_digests, write_state
from convlens.draw.jpeg import encode_jpeg, encode_png
from convlens.draw.picture import to_uint8
from convlens.experiment.assemble import Run
from convlens.rundir import log as logs
from convlens.rundir.claim import Claim
from convlens.rundir.lock import Hold
from convlens.rundir.write import write_data_facts

log = logging.getLogger("convlens")


@contextlib.contextmanager
def run_folder(config: Config, resume: Path | None) -> Iterator[Callable[[], Path]]:
    """Lock the folder that a run writes into; the folder of a dry run is removed at the end.

    Args:
        config: resolved.
        resume: the folder of a resumed run; None for a new run.

    Yields:
        A function that creates the folder of a new run and returns it. Call it after all checks,
        so that a refused run leaves no folder.

    Raises:
        UserError: the folder contains a run already, is in use, or cannot be created.
    """
    if config.trainer.fast_dev_run:
        # nothing is kept, and a run in run_dir is not touched
        with tempfile.TemporaryDirectory(prefix="convlens-") as scratch:
            yield lambda: Path(scratch)
        return
    claim = build_claim(config)
    if resume is None:
        claim.check()
    with Hold() as hold:
        if resume:
            hold.take(resume)
        yield lambda: resume or claim.take(hold)


def build_claim(config: Config) -> Claim:
    """Return the claim to the folder of a config's run."""
    return Claim(config.run_dir, config.experiment, config.overwrite, config.trainer.num_nodes)


def decode(run: Run) -> list[str]:
    """Decode the images, or open the cache; return the notes about them, each once."""
    with count_seconds("decoding"):
        return run.data.notes


def open_log(home: Path, run: Run, resumed: bool) -> None:
    """Write ``train.log`` from now on; begin with a note that is already on the screen."""
    if is_first_process() and not run.config.trainer.fast_dev_run:
        logs.log_to_file(home / "train.log")
    else:
        logs.silence_libraries()
    weights = run.module.model.weights
    if not resumed and weights and weights.note:
        log.debug(weights.note)


def prepare(run: Run, home: Path, resumed: bool) -> None:
    """Write config, split, facts about the data and probes, and give the explanations their probes.

    Args:
        run: the assembled run.
        home: the run folder.
        resumed: whether the run continues in this folder.

    Raises:
        UserError: the data of a resumed run has changed.
    """
    config = run.config
    listing = run.data.index.listing
    if is_first_process():
        if resumed:
            (home / "summary.json").unlink(missing_ok=True)  # it describes the shorter run
        if listing is not None:
            _compare(run, listing, home, resumed)
        write_atomic(home / "config.yaml", dump_yaml(config))
        if listing is not None:
            write_split(home / "split.csv", listing)
        if config.data.corrections:
            write_corrections(home / COPY, run.data.index.correction_table)
        write_data_facts(home, collect_facts(run.data))
        write_conflicts(home / "conflicts.csv", run.data)
        write_planted(home / "planted.csv", run.data)
        write_planted_shortcuts(home / "planted_shortcuts.csv", run.data, config)
    classes = run.data.class_names
    if config.probes.files:
        probes = load_user_probes(config.probes.files, classes, config.data)
    else:
        pictures, count = run.data.dataset.splits["validation"], config.probes.count
        probes = choose_probes(pictures, classes, count=count, seed=config.seed, spec=config.data)
    if is_first_process():
        _keep_probes(probes, classes, home / "probes")
    for callback in run.explanations:
        callback.attach(probes, classes, home / "explanations", config.seed)


def write_conflicts(file: Path, data: PictureData) -> None:
    """Write which images look the same and have different labels; nothing if there are none."""
    if data.dataset.conflicts:
        with open_atomic(file, errors="surrogateescape", newline="") as table:
            rows = (CONFLICT_COLUMNS, *list_conflicts(data.dataset))
            table.writelines(map(format_csv_line, rows))


def write_planted(file: Path, data: PictureData) -> None:
    """Write which labels were made wrong on purpose: ``file,class,drawn``, training images first.

    Nothing is written if none was.
    """
    names, lines = data.class_names, ["file,class,drawn\n"]
    for images in data.dataset.splits.values():
        wrong = () if images.drawn is None else np.flatnonzero(images.labels != images.drawn)
        for row in wrong:
            classes = (names[each[row]] for each in (images.labels, images.drawn))
            lines.append(format_csv_line([images.names[row], *classes]))
    if len(lines) > 1:
        write_atomic(file, "".join(lines))


def write_planted_shortcuts(file: Path, data: PictureData, config: Config) -> None:
    """Write the images with a planted shortcut, and where in them it is.

    The columns are ``file,class,shortcut,left,top,right,bottom``, the last four in pixels of the
    drawn image, right and bottom exclusive. Nothing is written if none was planted.
    """
    lines = ["file,class,shortcut,left,top,right,bottom\n"]
    for images in data.dataset.splits.values():
        for row in () if images.marked is None else np.flatnonzero(images.marked):
            kind = config.data.shortcut_kind or "corner"
            place = find_place(kind, config.data.size, config.seed)
            labels = images.labels if images.drawn is None else images.drawn
            name = data.class_names[labels[row]]
            lines.append(format_csv_line([images.names[row], name, kind, *map(str, place)]))
    if len(lines) > 1:
        write_atomic(file, "".join(lines))


def _compare(run: Run, listing: Listing, home: Path, resumed: bool) -> None:
    """Record the images that a run begins with; refuse to resume with others."""
    split, record = home / "split.csv", home / "pictures.csv"
    digests = collect_digests(listing, run.data.dataset)
    if resumed and split.exists():
        _check_split(read_split(split, listing), listing)
    if not (resumed and record.exists()):
        write_state(record, listing, digests)
    elif line := check_state(record, listing, digests):
        log.warning(line)


def _check_split(before: Listing, now: Listing) -> None:
    """Refuse a split that has changed, as it does if images were added or removed."""
    moved = np.flatnonzero(before.splits != now.splits)
    if len(moved):
        row = int(moved[0])
        raise UserError(
            f"{now.files.name(row)} would move from {before.splits[row]} to {now.splits[row]} "
            f"({len(moved)} such), because images were added to or removed from {now.directory}: "
            f"restore them, or start a new run"
        )


def _keep_probes(probes: Probes, class_names: Sequence[str], home: Path) -> None:
    """Write the probes as the network gets them (PNG), their photographs (JPEG), and a table."""
    home.mkdir(exist_ok=True)
    lines = ["probe\tclass\tframe\tseen\tsource"]
    for number, (name, source) in enumerate(zip(probes.names, probes.sources, strict=True)):
        photograph, label = probes.photographs[number], int(probes.labels[number])
        (home / f"{name}.png").write_bytes(encode_png(to_uint8(probes.images[number])))
        (home / f"{name}.jpg").write_bytes(encode_jpeg(photograph.picture))
        frame = ",".join(f"{edge:.6g}" for edge in photograph.frame)
        # of several classes none is the one: the name lists them
        class_name = class_names[label] if label >= 0 and probes.present is None else ""
        cells = [name, " ".join(class_name.split()), frame, photograph.seen]
        lines.append("\t".join([*cells, " ".join(source.splitlines())]))
    text = "\n".join(lines) + "\n"  # file names may not be UTF-8
    (home / "probes.tsv").write_text(text, encoding="utf-8", errors="backslashreplace")
