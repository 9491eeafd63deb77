"""Weights & Biases as a tracker."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from convlens.callbacks.logging.table import Table
from convlens.callbacks.logging.tracker import STEPS, Part, Tracker


class WandbTracker(Tracker):
    """A run of wandb.

    Every value is logged with ``epoch``, completed epochs, which is the x-axis of all charts; those
    of ``train_step/…`` have ``optimizer_step`` instead. (wandb's own step counts calls.)

    Offline, each process writes a file of its own, and wandb does not read it again. A resumed run
    therefore replaces the file of the killed one by one that holds the whole run.

    Args:
        folder: where wandb makes its folder ``wandb``; it must exist.
        mode: ``offline`` or ``online``.
        project: name of the project.
        entity: user or team; None for the user's default.
        title: name of the run.
        config: the run's config.
        run_id: the run to continue; None for a new one.
    """

    name = "wandb"

    def __init__(
        self, folder: Path, *, mode: Literal["offline", "online"], project: str,
        entity: str | None, title: str, config: Mapping[str, Any], run_id: str | None,
    ):  # fmt: skip
        offline = mode == "offline"
        if offline:  # errors of wandb itself would be sent to its authors
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self._wandb, self._folder = wandb, folder / "wandb"
        self.run_id = run_id or secrets.token_hex(4)
        if offline:
            for earlier in self._folder.glob(f"offline-run-*-{self.run_id}"):
                shutil.rmtree(earlier)
        self._run = wandb.init(
            dir=str(folder), mode=mode, project=project, entity=entity, name=title,
            id=self.run_id, config=dict(config), resume=None if offline else "allow",
            reinit="create_new",
            settings=wandb.Settings(
                console="off", silent=True, x_disable_machine_info=offline,
                x_disable_stats=offline, x_disable_meta=offline,
            ),
        )  # fmt: skip
        self._offline = offline
        self.place = self._run.dir.removesuffix("/files") if offline else str(self._run.url)
        self._axes: set[str] = set()  # patterns of tags whose x-axis is set

    def find_logged(self) -> Iterable[tuple[str, int]] | None:
        """Return nothing offline, where the file is new; None online."""
        return [] if self._offline else None

    def _log(self, values: Mapping[str, Any], step: int) -> None:
        axis = "optimizer_step" if all(tag.startswith(STEPS) for tag in values) else "epoch"
        patterns = {f"{tag.partition('/')[0]}/*" if "/" in tag else tag for tag in values}
        for pattern in sorted(patterns - self._axes):
            self._run.define_metric(pattern, step_metric=axis)
        self._axes |= patterns
        self._run.log({**values, axis: step})

    def log_numbers(self, values: Mapping[str, float], step: int) -> None:
        self._log(values, step)

    def log_picture(self, tag: str, file: Path, step: int) -> None:
        self._log({tag: self._wandb.Image(str(file), caption=f"epoch {step}")}, step)

    def log_text(self, tag: str, text: str, step: int) -> None:
        self._log({tag: text}, step)

    def log_table(self, tag: str, table: Table, step: int) -> None:
        rows = [list(row) for row in table.rows]
        self._log({tag: self._wandb.Table(columns=list(table.columns), data=rows)}, step)

    def log_file(self, part: Part, file: Path) -> None:
        if part == "report":  # `make report` may write it again; wandb reads it when it uploads
            copy = self._folder / f"{part}-{self.run_id}{file.suffix}"
            shutil.copyfile(file, copy)
            file = copy
        artifact = self._wandb.Artifact(f"{part}-{self.run_id}", type=part)
        artifact.add_file(str(file), policy="immutable", skip_cache=True)
        self._run.log_artifact(artifact)

    def close(self, finished: bool = False) -> None:
        self._run.finish(exit_code=0 if finished else 1)
