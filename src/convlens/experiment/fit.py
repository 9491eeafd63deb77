"""Train a run, and test what was trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as L
import torch

from convlens.experiment.assemble import Run
from convlens.training.survival.checkpoint import checkpoint_to_resume, read_checkpoint


@dataclass(frozen=True)
class Start:
    """Where a resumed run goes on.

    Attributes:
        file: the checkpoint.
        content: what :func:`convlens.training.survival.checkpoint.read_checkpoint` gives of it.
    """

    file: Path
    content: dict[str, Any]


def start_of(home: Path | None) -> Start | None:
    """Where the run in a folder goes on; None for a new run, and for one without a checkpoint."""
    file = checkpoint_to_resume(home / "checkpoints") if home else None
    return None if file is None else Start(file, read_checkpoint(file))


def fit(trainer: L.Trainer, run: Run, start: Path | None) -> None:
    """Train, with kernels that give the same bits every time."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    # the flag above also fills every new tensor; nothing of ours reads what it did not write
    torch.utils.deterministic.fill_uninitialized_memory = False
    trainer.fit(run.module, datamodule=run.data, ckpt_path=start, weights_only=True)


def run_test(trainer: L.Trainer, run: Run, checkpoint: str | None) -> dict[str, float]:
    """Test results, ``test/…``, of a checkpoint of the run, or of the network as it is.

    Only the weights are loaded: with ``ckpt_path`` Lightning would also put the callbacks back to
    the best epoch, and the history behind it would be lost.
    """
    if checkpoint:
        run.module.load_state_dict(read_checkpoint(checkpoint)["state_dict"])
    trainer.test(run.module, datamodule=run.data, verbose=False)
    return {k: v for k, v in run.module.results.items() if k.startswith("test/")}
