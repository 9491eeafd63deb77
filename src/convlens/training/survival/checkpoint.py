"""Checkpoints: plain data, written whole or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from convlens.core.errors import UserError
from convlens.core.files import open_atomic
from convlens.core.stopwatch import count_seconds
from convlens.models.weights_file import is_plain, load_data

STOPPED = "stopped.ckpt"  # of a run that a signal ended amid an epoch


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames, so that a kill leaves the old file or the new one."""

    def load_checkpoint(self, path, *args, **options) -> dict[str, Any]:
        """A checkpoint whose run lies where the file lies now, wherever it was written."""
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
        # torch tells of a failed write by a RuntimeError of its own
        except (OSError, RuntimeError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
            free = shutil.disk_usage(target.parent).free
            raise UserError(
                f"{target} was not written ({reason[:120]}; {free / 1e6:.0f} MB are free): make "
                f"room; `make resume run={target.parent.parent}` goes on from the checkpoint before"
            ) from error


def _relocate(state: dict[str, Any], folder: str) -> None:
    """Let the absolute paths that Lightning's ModelCheckpoint has stored lead into ``folder``.

    With those of another place it would take any next epoch for the best so far.
    """

    def moved(path: str) -> str:
        return path and os.path.join(folder, os.path.basename(path))

    state["dirpath"] = folder
    for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
        state[key] = moved(state[key])
    state["best_k_models"] = {moved(path): score for path, score in state["best_k_models"].items()}


def find_checkpoint_to_resume(folder: Path) -> Path | None:
    """The checkpoint that has come farthest: the last whole epoch's, or one amid an epoch.

    None where there is none yet.
    """
    last, stopped = folder / "last.ckpt", folder / STOPPED
    if not last.exists() or not stopped.exists():
        return next((file for file in (stopped, last) if file.exists()), None)
    return max((last, stopped), key=lambda file: read_checkpoint(file)["global_step"])


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint of ours, loaded as data (``weights_only=True``) on the CPU.

    Raises:
        UserError: no such file, not a checkpoint, or not one that convlens wrote.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(
            f"there is no checkpoint {path}; a run keeps its best in checkpoints/best.ckpt"
        )
    try:
        content = load_data(path)
    except Exception as error:  # the unpickler raises whatever a foreign file leads it to
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} is no readable checkpoint ({reason[:120]}); is it whole?"
        ) from error
    problem = _problem(content)
    if problem:
        raise UserError(f"{path} was not written by convlens: {problem}")
    return content


def _problem(content: Any) -> str:
    """What a checkpoint of ours has and this one lacks; empty for one that has it all."""
    parts = content.get("hyper_parameters") if isinstance(content, dict) else None
    if not isinstance(parts, dict) or not {"config", "class_names"} <= set(parts):
        return "it holds no config and class names"
    names, state, epoch = parts["class_names"], content.get("state_dict"), content.get("epoch")
    if not isinstance(parts["config"], dict):
        return "its config is no table of keys"
    if not isinstance(names, list) or not all(isinstance(n, str) and n for n in names):
        return "its class names are no list of names"
    if len(names) < 2 or len(set(names)) < len(names):
        return "its class names are not two or more different ones"
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) and is_plain(value)
        for key, value in state.items()
    ):
        return "it holds no weights by name"
    if not isinstance(epoch, int) or isinstance(epoch, bool) or not 0 <= epoch < 2**31:
        return "it tells no epoch"
    return ""
