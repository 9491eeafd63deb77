"""Checkpoints: plain data, written completely or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from convlens.core.command_lines import command_line
from convlens.core.errors import UserError
from convlens.core.files import open_atomic
from convlens.core.stopwatch import count_seconds
from convlens.models.weights_file import is_plain, load_data
from convlens.training.calibration import read_calibration

STOPPED = "stopped.ckpt"  # of a run that a signal stopped during an epoch


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames, so that a kill leaves the old or the new file."""

    def load_checkpoint(self, path, *args, **options) -> dict[str, Any]:
        """Load a checkpoint; its paths point to the folder that it is in now."""
        checkpoint = super().load_checkpoint(path, *args, **options)
        folder = os.path.realpath(Path(path).parent)
        for name, state in checkpoint.get("callbacks", {}).items():
            if name.startswith("ModelCheckpoint"):
                _relocate(state, folder)
        return checkpoint

    def save_checkpoint(self, checkpoint: dict[str, Any], path, storage_options=None) -> None:
        with count_seconds("checkpoints"):
            self._save(checkpoint, Path(path))

    def _save(self, checkpoint: dict[str, Any], target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open_atomic(target, "wb", sync=True) as file:
                torch.save(checkpoint, file)
        # torch reports a failed write as a RuntimeError
        except (OSError, RuntimeError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
            again = command_line("resume", run=target.parent.parent)
            free = shutil.disk_usage(target.parent).free
            raise UserError(
                f"{target} was not written ({reason[:120]}; {free / 1e6:.0f} MB free): make room; "
                f"`{again}` continues from the previous checkpoint"
            ) from error


def _relocate(state: dict[str, Any], folder: str) -> None:
    """Point the absolute paths that Lightning's ModelCheckpoint has stored to ``folder``.

    With paths to another folder it would take the next epoch for the best so far.
    """

    def move(path: str) -> str:
        return path and os.path.join(folder, os.path.basename(path))

    state["dirpath"] = folder
    for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
        state[key] = move(state[key])
    state["best_k_models"] = {move(path): score for path, score in state["best_k_models"].items()}


def find_checkpoint_to_resume(folder: Path) -> Path | None:
    """Return the checkpoint with the most steps: of the last epoch or of a stop during one.

    Args:
        folder: ``checkpoints/`` of a run.

    Returns:
        The file; None if there is none yet.
    """
    last, stopped = folder / "last.ckpt", folder / STOPPED
    if not last.exists() or not stopped.exists():
        return next((file for file in (stopped, last) if file.exists()), None)
    return max((last, stopped), key=lambda file: read_checkpoint(file)["global_step"])


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of convlens as data (``weights_only=True``) on the CPU.

    Args:
        path: the file.

    Raises:
        UserError: there is no such file, or it is not a checkpoint of convlens.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(
            f"there is no checkpoint {path}; the best one of a run is checkpoints/best.ckpt"
        )
    try:
        content = load_data(path)
    except Exception as error:  # a damaged file can raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} is not a readable checkpoint ({reason[:120]}); is it complete?"
        ) from error
    problem = _problem(content)
    if problem:
        raise UserError(f"{path} was not written by convlens: {problem}")
    return content


def _problem(content: Any) -> str:
    """Return why a file is not a checkpoint of convlens, or an empty text."""
    parts = content.get("hyper_parameters") if isinstance(content, dict) else None
    if not isinstance(parts, dict) or not {"config", "class_names"} <= set(parts):
        return "it has no config and class names"
    names, state, epoch = parts["class_names"], content.get("state_dict"), content.get("epoch")
    if not isinstance(parts["config"], dict):
        return "its config is not a table of keys"
    if not isinstance(names, list) or not all(isinstance(n, str) and n for n in names):
        return "its class names are not a list of names"
    if len(names) < 2 or len(set(names)) < len(names):
        return "its class names are fewer than two, or some are the same"
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) and is_plain(value)
        for key, value in state.items()
    ):
        return "it has no weights by name"
    if not isinstance(epoch, int) or isinstance(epoch, bool) or not 0 <= epoch < 2**31:
        return "it has no epoch"
    try:
        read_calibration(content)
    except ValueError as error:
        return str(error)
    return ""
