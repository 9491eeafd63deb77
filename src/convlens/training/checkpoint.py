"""Checkpoints: plain data, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from convlens.errors import UserError


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames, so that a kill leaves the old file or the new one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path, storage_options=None) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with open(beside, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, target)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise


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
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever a foreign file leads it to
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} is no readable checkpoint ({reason[:120]}); is it whole?"
        ) from error
    parts = content.get("hyper_parameters", {}) if isinstance(content, dict) else {}
    if not {"config", "class_names"} <= set(parts):
        raise UserError(f"{path} was not written by convlens: it holds no config and class names")
    return content
