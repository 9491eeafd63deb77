"""One datamodule over all sources: index, load, batches, probes."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import pytorch_lightning as L
import torch

from convlens.config.schema import DataConfig
from convlens.core.errors import UserError
from convlens.data.augment import Augmentation
from convlens.data.loader import Batch, EvaluationLoader, Stored, TrainingLoader
from convlens.data.order import TrainingOrder, draw_even_sample
from convlens.data.pixels.dataset import Dataset
from convlens.data.sources.registry import build_index
from convlens.data.sources.source import Index
from convlens.data.split_record import SplitRecord


class PictureData(L.LightningDataModule):
    """The images of the config group ``data`` as batches.

    A batch is a dictionary: ``image`` float (B, C, H, W) in [0, 1], augmented while training;
    ``label`` int64 (B,); ``row`` int64 (B,), the place in the split.

    Args:
        spec: the config group ``data``.
        seed: of the run; decides splits, order and augmentation.
        batch_size: images of a training step, over all processes together.
        per_device: ``batch_size`` counts for each process instead.
        eval_batch_size: images of a validation or test step in each process.
        steps_per_epoch: batches an epoch, or None for one pass.
        found: the images, where they are not to be looked for as ``spec`` says.
        before: digests of images that an earlier run has used, whose weights this one starts
            from; they are not tested.

    Attributes:
        stored: by split, what the network is fed with in place of the images, or nothing; a
            schedule sets it when its phase begins.
        augmenting: whether training images are augmented, as far as ``spec`` asks for it; set by
            the schedule too.
        batch_statistics: whether the network is normalised by its batch while it trains, so that
            no process may get a batch of one.

    Raises:
        UserError: one line for whatever a person can mend in the data or its keys.
    """

    def __init__(
        self,
        spec: DataConfig,
        *,
        seed: int,
        batch_size: int,
        eval_batch_size: int,
        steps_per_epoch: int | None = None,
        per_device: bool = False,
        found: Index | None = None,
        before: np.ndarray | None = None,
    ):
        super().__init__()
        self.per_device = per_device
        self.spec, self.seed = spec, seed
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.steps_per_epoch = steps_per_epoch
        self.augmentation = Augmentation(spec.augment)
        self.before = np.zeros(0, np.int64) if before is None else before
        self.index: Index = build_index(spec, seed, self.before) if found is None else found
        self.stored: dict[str, Stored] = {}
        self.augmenting = True
        self.batch_statistics = False
        for split, counts in self.index.counts.items():
            if counts.sum() == 0:
                raise UserError(
                    f"no {split} images in data={spec.name}: add some or set "
                    f"data.split.{split} to a share above 0"
                )

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.index.class_names

    @cached_property
    def dataset(self) -> Dataset:
        """The decoded images; decoded at the first call."""
        return self.index.load()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The split, for checkpoints, which therefore know what was trained on."""
        record = SplitRecord.of(self.dataset, self.before)
        return {} if record is None else record.state()

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Go on with the images of a checkpoint.

        Raises:
            UserError: these are others, or divided otherwise.
        """
        kept = SplitRecord.from_state(state, "the checkpoint")
        record = SplitRecord.of(self.dataset, self.before)
        if kept and record and not kept.same_as(record):
            raise UserError(
                "the images, or their division into splits, are not those that the run was trained "
                "with: put them back as they were, or start a new run"
            )

    def _place(self) -> tuple[int, int]:
        """(rank, number of processes)."""
        trainer = self.trainer
        return (trainer.global_rank, trainer.world_size) if trainer else (0, 1)

    def train_dataloader(self) -> TrainingLoader:
        pictures = self.dataset.splits["train"]
        rank, world = self._place()
        order = self.order(world)
        return TrainingLoader(
            pictures, order, self.seed, rank, world,
            stored=lambda: self.stored.get("train"),
            augmented=lambda: self.augmenting and self.augmentation.active,
            accumulate=self.trainer.accumulate_grad_batches if self.trainer else 1,
            cut_short=lambda: self.trainer.num_training_batches if self.trainer else math.inf,
        )  # fmt: skip

    def order(self, processes: int) -> TrainingOrder:
        """The global batches for so many processes."""
        count = int(self.index.counts["train"].sum())
        batch = self.batch_size * (processes if self.per_device else 1)
        # without batch statistics any number of processes has the same batches
        least = 2 * (processes if self.batch_statistics else 1)
        return TrainingOrder(count, batch, self.seed, self.steps_per_epoch, least=least)

    def val_dataloader(self) -> EvaluationLoader:
        return self.evaluation_loader("validation")

    def test_dataloader(self) -> EvaluationLoader:
        return self.evaluation_loader("test")

    def evaluation_loader(self, split: str, at_most: int | None = None) -> EvaluationLoader:
        """The images of a split in order, or an even sample of ``at_most`` of them.

        Several processes share out one and the same sample.
        """
        pictures, rows = self.dataset.splits[split], None
        if at_most is not None and at_most < len(pictures):
            rows = np.sort(draw_even_sample(pictures.labels, at_most, self.seed))
        return EvaluationLoader(
            pictures, self.eval_batch_size, *self._place(),
            rows=rows, stored=lambda: self.stored.get(split),
        )  # fmt: skip

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int = 0) -> Batch:
        return self.finish(batch)

    def finish(self, batch: Batch) -> Batch:
        """uint8 to float in [0, 1], then the augmentation if the batch carries draws.

        Features stay as they are.
        """
        if "features" in batch:
            return batch
        # keeps channels last, which is how the images lie in the cache
        images = batch["image"].to(torch.float32).div_(255)
        draws = batch.get("draws")
        if draws is not None and self.augmentation.active:
            images = self.augmentation(images, draws)
        return {**{key: value for key, value in batch.items() if key != "draws"}, "image": images}
