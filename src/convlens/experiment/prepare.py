"""A run before training: its folder, its log, and config, split, pictures and probes in it."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from convlens.config.migrate import dump_yaml
from convlens.config.schema import Config
from convlens.core.errors import UserError
from convlens.core.files import write_atomic
from convlens.core.processes import is_first_process
from convlens.core.stopwatch import count_seconds
from convlens.data.index.listing import Listing
from convlens.data.index.split_file import read_split, write_split
from convlens.data.probes import Probes, choose_probes, load_user_probes
from convlens.data.unchanged import check_state, collect_digests, write_state
from convlens.draw.jpeg import encode_png
from convlens.draw.picture import to_uint8
from convlens.experiment.assemble import Run
from convlens.rundir import log as logs
from convlens.rundir.claim import Claim
from convlens.rundir.lock import Hold

log = logging.getLogger("convlens")


@contextlib.contextmanager
def run_folder(config: Config, resume: Path | None) -> Iterator[Callable[[], Path]]:
    """Hold the folder that a run writes into; a dry run's is gone afterwards.

    Args:
        config: resolved.
        resume: the folder of a resumed run.

    Yields:
        What makes the folder of a new run and returns it: to be called when all that can be refused
        has been.

    Raises:
        UserError: the folder holds a run already, is in use, or cannot be made.
    """
    if config.trainer.fast_dev_run:
        # nothing is kept, and no run that lies in run_dir is touched
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
    """What a config says of the folder of its run."""
    return Claim(config.run_dir, config.experiment, config.overwrite, config.trainer.num_nodes)


def decode(run: Run) -> list[str]:
    """Decode the images, or open what is stored of them; returns what is to be said, each once."""
    with count_seconds("decoding"):
        return list(dict.fromkeys([*run.data.index.notes, *run.data.dataset.notes]))


def open_log(home: Path, run: Run, resumed: bool) -> None:
    """Write ``train.log`` from now on; a line that is on the screen already comes first."""
    if is_first_process() and not run.config.trainer.fast_dev_run:
        logs.log_to_file(home / "train.log")
    else:
        logs.silence_libraries()
    weights = run.module.model.weights
    if not resumed and weights and weights.note:
        log.debug(weights.note)


def prepare(run: Run, home: Path, resumed: bool) -> None:
    """Write what is known before training: config, split, probes; attach the probes.

    Raises:
        UserError: the data of a resumed run is not what it was.
    """
    config = run.config
    listing = run.data.index.listing
    if is_first_process():
        if resumed:
            (home / "summary.json").unlink(missing_ok=True)  # before the config says another length
        if listing is not None:
            _compare(run, listing, home, resumed)
        write_atomic(home / "config.yaml", dump_yaml(config))
        if listing is not None:
            write_split(home / "split.csv", listing)
    classes = run.data.class_names
    if config.probes.files:
        probes = load_user_probes(config.probes.files, classes, config.data)
    else:
        pictures, count = run.data.dataset.splits["validation"], config.probes.count
        probes = choose_probes(pictures, classes, count=count, seed=config.seed)
    if is_first_process():
        _keep_probes(probes, home / "probes")
    for callback in run.explanations:
        callback.attach(probes, classes, home / "explanations", config.seed)


def _compare(run: Run, listing: Listing, home: Path, resumed: bool) -> None:
    """Note which pictures a run begins with; refuse to go on with others."""
    split, noted = home / "split.csv", home / "pictures.csv"
    digests = collect_digests(listing, run.data.dataset)
    if resumed and split.exists():
        _check_split(read_split(split, listing), listing)
    if not (resumed and noted.exists()):
        write_state(noted, listing, digests)
    elif line := check_state(noted, listing, digests):
        log.warning(line)


def _check_split(before: Listing, now: Listing) -> None:
    """Refuse a division that came out otherwise, as it does when images were added or removed."""
    moved = np.flatnonzero(before.splits != now.splits)
    if len(moved):
        row = int(moved[0])
        raise UserError(
            f"{now.files.name(row)} was in {before.splits[row]} when the run began and would be in "
            f"{now.splits[row]} now ({len(moved)} such): images were added to {now.directory} or "
            f"removed; put them back as they were, or start a new run"
        )


def _keep_probes(probes: Probes, home: Path) -> None:
    home.mkdir(exist_ok=True)
    lines = ["probe\tsource"]
    for name, source, image in zip(probes.names, probes.sources, probes.images, strict=True):
        (home / f"{name}.png").write_bytes(encode_png(to_uint8(image)))
        lines.append(f"{name}\t{' '.join(source.splitlines())}")
    text = "\n".join(lines) + "\n"  # a file's name need not be UTF-8
    (home / "probes.tsv").write_text(text, encoding="utf-8", errors="backslashreplace")
