"""Train like the command line, and keep the final state of each process: FOLDER key=value …

It is a separate script, because the processes of a distributed run start it again.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytorch_lightning as L
import torch

from convlens.cli.main import main
from convlens.experiment import train as runs


class Keep(L.Callback):
    """Writes ``rank_<n>.pt``: parameters, buffers and the optimizer's state."""

    def __init__(self, folder: Path):
        self.folder = folder

    def on_train_end(self, trainer, pl_module) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {
            "state": pl_module.state_dict(),
            "optimizer": trainer.optimizers[0].state_dict(),
        }
        torch.save(content, self.folder / f"rank_{trainer.global_rank}.pt")


def train(folder: Path, words: list[str]) -> int:
    plain = runs.build_trainer

    def build_trainer(*args):
        trainer, *rest = plain(*args)
        trainer.callbacks.append(Keep(folder))
        return trainer, *rest

    runs.build_trainer = build_trainer
    return main(["train", *words])


if __name__ == "__main__":
    sys.exit(train(Path(sys.argv[1]), sys.argv[2:]))
