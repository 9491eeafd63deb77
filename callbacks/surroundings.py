"""What a look may ask of the run around it: data, augmentation, phases.

In convlens's own runs all of it is there; in another project only the answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytorch_lightning as L
import torch
from convlens.callbacks.answers import Answers
from torch import Tensor

from convlens.data.augment import DRAWS
from convlens.data.datamodule import PictureData
from convlens.data.order import even_sample, generator
from convlens.data.pixels.pictures import Pictures
from convlens.training import ClassifierModule

SPLITS = {"val": "validation", "test": "test"}
AT_ONCE = 50


def surroundings(
    data: L.LightningDataModule | None, module: L.LightningModule, stage: str,
    answers: Answers | None = None,
) -> dict:  # fmt: skip
    """The fields of a :class:`convlens.callbacks.look.Look` that come from the run."""
    found: dict = {"marks": _marks(module)}
    if isinstance(data, PictureData):
        pictures = data.dataset.splits[SPLITS[stage]]
        found |= _of_pictures(pictures, module.device, data.seed)
        schedule = getattr(module, "schedule", None)
        if data.augmentation.active and (schedule is None or schedule.augments):
            found["augment"] = lambda images, seed: data.augmentation(images, _draws(images, seed))
    elif answers is not None:
        found["fetch"] = lambda rows: _held(answers, rows, module.device)
    return found


def _of_pictures(pictures: Pictures, device: torch.device, seed: int) -> dict:
    def read(rows: np.ndarray) -> Tensor:
        images = torch.from_numpy(pictures.pixels(rows)).permute(0, 3, 1, 2)
        return images.to(device).contiguous().float().div_(255)

    def sample(count: int) -> np.ndarray:
        return even_sample(pictures.labels, count, seed)

    def batches(count: int) -> Iterator[Tensor]:
        rows = sample(count)
        for start in range(0, len(rows), AT_ONCE):
            yield read(rows[start : start + AT_ONCE])

    def masks(count: int) -> Tensor | None:
        if pictures.masks is None:
            return None
        return torch.from_numpy(np.asarray(pictures.masks[sample(count)], dtype=bool))

    return {
        "fetch": lambda rows: (read(np.asarray(rows, dtype=int)), list(rows)),
        "pictures": batches,
        "labels": lambda count: torch.from_numpy(pictures.labels[sample(count)]),
        "masks": masks,
    }


def _draws(images: Tensor, seed: int) -> Tensor:
    return torch.from_numpy(generator(seed, 7).random((len(images), DRAWS))).float()


def _held(answers: Answers, rows: Sequence[int], device) -> tuple[Tensor, list[int]]:
    kept = [int(row) for row in rows if int(row) in answers.held]
    if not kept:
        return torch.zeros(0, 1, 1, 1, device=device), []
    return torch.stack([answers.held[row] for row in kept]).to(device), kept


def _marks(module: L.LightningModule) -> dict[str, int]:
    if not isinstance(module, ClassifierModule) or len(module.schedule.phases) < 2:
        return {}
    schedule, record = module.schedule, module.record
    last = max(record, default=-1) + 1
    marks, before = {}, schedule.at(0, record)[0]
    for epoch in range(1, last):
        phase, _ = schedule.at(epoch, record)
        if phase is not before:
            marks[", ".join(phase.train)] = epoch
            before = phase
    return marks
