"""TensorBoard over a folder of runs, where each run has the name of its folder.

By itself, TensorBoard calls a run by the folder of its event file, which is always called
``tensorboard`` here: ``finetune_vgg16/2026-11-28_10-02-11/tensorboard``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import partialmethod
from pathlib import Path
from typing import Any

from tensorboard import default, program
from tensorboard.data.provider import DataProvider, Run, RunTagFilter

# by default, TensorBoard keeps ten random steps of each image tag, and may drop step 0
_SAMPLES = "images=1000,text=1000"
_TAIL = re.compile(r"(?:(?P<run>.+)[/\\])?tensorboard(?:[/\\]version_\d+)?")


def serve(folder: Path, *, host: str, port: str) -> int:
    """Serve TensorBoard until it is stopped, and return its exit status.

    Args:
        folder: the folder with the runs; new ones appear while it serves.
        host: the address to listen on.
        port: the port; 0 for any free one.
    """
    board = _NamedBoard(plugins=default.get_plugins())
    words = ["", f"--logdir={folder}", f"--samples_per_plugin={_SAMPLES}"]
    board.configure([*words, f"--port={port}", f"--host={host}"])
    return board.main()


def name_runs(event_folders: Iterable[str], logdir: Path) -> dict[str, str]:
    """Return the names of runs by the folders of their event files, relative to ``logdir``.

    Only the end that all runs have in common is left out; two runs never get the same name.

    >>> name_runs(["scratch/10-02-11/tensorboard", "other/logs"], Path("outputs"))
    {'scratch/10-02-11/tensorboard': 'scratch/10-02-11', 'other/logs': 'other/logs'}
    """
    names = {}
    for folder in event_folders:
        match = _TAIL.fullmatch(folder)
        names[folder] = folder if match is None else match["run"] or logdir.resolve().name
    uses = Counter(names.values())
    return {folder: name if uses[name] == 1 else folder for folder, name in names.items()}


class _NamedBoard(program.TensorBoard):
    def _make_data_provider(self) -> tuple[DataProvider, Any]:
        provider, multiplexer = super()._make_data_provider()
        return NamedRuns(provider, Path(self.flags.logdir)), multiplexer


class NamedRuns(DataProvider):
    """The data of another provider, with the runs called as by ``name_runs``.

    Args:
        provider: the other provider.
        logdir: the folder with the runs.
    """

    def __init__(self, provider: DataProvider, logdir: Path):
        self._provider, self._logdir = provider, logdir

    def _ask(self, method: str, ctx: Any = None, **query: Any) -> dict[str, Any]:
        """Return the other provider's answer, a mapping by run."""
        runs = self._provider.list_runs(ctx, experiment_id=query["experiment_id"])
        names = name_runs((run.run_id for run in runs), self._logdir)
        wanted = query.get("run_tag_filter")
        if wanted is not None and wanted.runs is not None:
            folders = [folder for folder, name in names.items() if name in wanted.runs]
            query = {**query, "run_tag_filter": RunTagFilter(runs=folders, tags=wanted.tags)}
        answer = getattr(self._provider, method)(ctx, **query)
        return {names.get(folder, folder): series for folder, series in answer.items()}

    def _pass_on(self, method: str, ctx: Any = None, **query: Any) -> Any:
        return getattr(self._provider, method)(ctx, **query)

    list_scalars = partialmethod(_ask, "list_scalars")
    read_scalars = partialmethod(_ask, "read_scalars")
    read_last_scalars = partialmethod(_ask, "read_last_scalars")
    list_tensors = partialmethod(_ask, "list_tensors")
    read_tensors = partialmethod(_ask, "read_tensors")
    list_blob_sequences = partialmethod(_ask, "list_blob_sequences")
    read_blob_sequences = partialmethod(_ask, "read_blob_sequences")
    read_blob = partialmethod(_pass_on, "read_blob")
    list_plugins = partialmethod(_pass_on, "list_plugins")
    experiment_metadata = partialmethod(_pass_on, "experiment_metadata")

    def list_runs(self, ctx=None, *, experiment_id):
        runs = self._provider.list_runs(ctx, experiment_id=experiment_id)
        names = name_runs((run.run_id for run in runs), self._logdir)
        return [Run(names[run.run_id], names[run.run_id], run.start_time) for run in runs]
