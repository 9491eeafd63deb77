"""One datamodule for all sources: index, load, make batches."""

from __future__ import annotations

import logging
import math
from functools import cached_property, partial

import numpy as np
import pytorch_lightning as L
import torch
from torch import Tensor

from convlens.config.schema import DataConfig
from convlens.core.errors import UserError
from convlens.data.augment import Augmentation
from convlens.data.feed import Batch, Feed, GpuStream
from convlens.data.loader import EvaluationLoader, Stored, TrainingLoader
from convlens.data.mixing import apply_mix
from convlens.data.order import TrainingOrder, draw_even_sample
from convlens.data.pixels.dataset import Dataset
from convlens.data.residence import choose_residence, copy_images
from convlens.data.sources.registry import build_index
from convlens.data.sources.source import Index
from convlens.data.split_record import SplitRecord

log = logging.getLogger("convlens")


class PictureData(L.LightningDataModule):
    """The images of the config group ``data`` as batches.

    Checkpoints store the state under this class's name, so renaming it would break resuming.

    A batch is a dictionary: ``image`` float (B, C, H, W) in [0, 1], augmented during training;
    ``label`` int64 (B,), or bool (B, K) if images may have several classes; ``row`` int64 (B,), the
    position in the split. If images are mixed, a training batch also has ``target`` float32 (B, K),
    the shares of the classes in each image.

    Args:
        spec: the config group ``data``.
        seed: seed of the run; decides splits, order and augmentation.
        batch_size: images per training step, over all processes together.
        per_device: count ``batch_size`` per process instead.
        balanced: draw training images of all classes equally often.
        eval_batch_size: images per validation or test step in each process.
        steps_per_epoch: batches per epoch, or None for one pass.
        index: an index built beforehand; by default, the source in ``spec`` is indexed.
        before: digests of images used by an earlier run whose weights this one starts from; they
            are excluded from the test split.

    Attributes:
        stored: by split, the stored features that the network gets instead of images; empty if it
            gets images. A schedule sets it when a phase begins.
        residence: where batches are read from: ``device``, ``disk`` or ``ram``.
        feed: how batches get from there to the device.
        augmenting: whether training images are augmented (if ``spec`` configures it); also set by
            the schedule.
        batch_statistics: whether training normalises by batch statistics, so that no process may
            get a batch of one image.

    Raises:
        UserError: the data or its keys have a problem that the user can fix.
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
        balanced: bool = False,
        index: Index | None = None,
        before: np.ndarray | None = None,
    ):
        super().__init__()
        self.per_device, self.balanced = per_device, balanced
        self.spec, self.seed = spec, seed
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.steps_per_epoch = steps_per_epoch
        self.augmentation = Augmentation(spec.augment)
        self.before = np.zeros(0, np.int64) if before is None else before
        self.index: Index = build_index(spec, seed, self.before) if index is None else index
        self.stored: dict[str, Stored] = {}
        self.augmenting = True
        self.batch_statistics = False
        self._device: torch.device | None = None
        self.serve(torch.device("cpu"))  # until a trainer names another
        for split, counts in self.index.counts.items():
            if counts.sum() == 0:
                raise UserError(
                    f"no {split} images in data={spec.name}: add some, or set "
                    f"data.split.{split} above 0"
                )

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; a label is an index into them."""
        return self.index.class_names

    @cached_property
    def dataset(self) -> Dataset:
        """The decoded images; they are decoded on first access."""
        return self.index.load()

    @property
    def notes(self) -> list[str]:
        """Lines about the images to report to the user, each once; the images are decoded."""
        return list(dict.fromkeys([*self.index.notes, *self.dataset.notes]))

    @cached_property
    def record(self) -> SplitRecord | None:
        """The split, and digests of the images and labels; None without digests."""
        return SplitRecord.of(self.dataset, self.before)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the split, so that a checkpoint records what was trained on."""
        return {} if self.record is None else self.record.state()

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Check that the images are those of the checkpoint.

        Raises:
            UserError: the images, their labels or their division into splits differ.
        """
        saved = SplitRecord.from_state(state, "the checkpoint")
        if saved and self.record and not saved.same_as(self.record):
            raise UserError(
                "the images, their labels or their splits differ from those this run was trained "
                "with: restore them, or start a new run"
            )

    @property
    def nbytes(self) -> int:
        """Bytes of the decoded images of all splits."""
        images = sum(int(counts.sum()) for counts in self.index.counts.values())
        return images * self.spec.size**2 * self.spec.channels

    def setup(self, stage: str) -> None:
        """Serve the trainer's device (called by Lightning)."""
        self.serve(self.trainer.strategy.root_device)

    def serve(self, device: torch.device) -> None:
        """Choose how batches get to a device; a call with the same device changes nothing.

        Every process serves its own device. Any image may come next in any process, so each copies
        all images of a split.
        """
        if device == self._device:
            return
        self._device, self._resident = device, {}
        self.residence = choose_residence(self.spec.cache, self.nbytes, device)
        self.feed = Feed(GpuStream(device), self.finish) if device.type == "cuda" else Feed()

    def _find_resident(self, split: str) -> Tensor | None:
        """Return the images of a split on the device, copied on first use; None: on the host."""
        if self.residence == "device" and split not in self._resident:
            images = self.dataset.splits[split]
            try:
                title = f"copying {len(images)} {split} images to the device"
                self._resident[split] = copy_images(images, self._device, title)
            except torch.OutOfMemoryError as error:
                self.residence, self._resident = "disk", {}
                reason = str(error).partition("\n")[0]
                log.warning("images are read from the disk cache, not from the device: %s", reason)
        return self._resident.get(split)

    def _get_rank(self) -> tuple[int, int]:
        """Return (rank, number of processes)."""
        trainer = self.trainer
        return (trainer.global_rank, trainer.world_size) if trainer else (0, 1)

    def train_dataloader(self) -> TrainingLoader:
        """Return the training batches of this process."""
        images = self.dataset.splits["train"]
        rank, world = self._get_rank()
        order = self.order(world, images.targets if self.balanced else None)
        return TrainingLoader(
            images, order, self.seed, rank, world,
            stored=lambda: self.stored.get("train"),
            augmentation=self.augmentation,
            augmented=lambda: self.augmenting and self.augmentation.active,
            accumulate=self.trainer.accumulate_grad_batches if self.trainer else 1,
            cut_short=lambda: self.trainer.num_training_batches if self.trainer else math.inf,
            resident=partial(self._find_resident, "train"),
            feed=self.feed,
        )  # fmt: skip

    def order(self, processes: int, labels: np.ndarray | None = None) -> TrainingOrder:
        """Return the order of the global batches for a number of processes.

        Args:
            processes: number of processes.
            labels: of the training images, or (N, K) bool, to draw all classes equally often; None
                otherwise, and if only the sizes of the batches matter.
        """
        count = int(self.index.counts["train"].sum())
        batch = self.batch_size * (processes if self.per_device else 1)
        # without batch statistics the batches are the same for any number of processes
        least = 2 * (processes if self.batch_statistics else 1)
        return TrainingOrder(
            count, batch, self.seed, self.steps_per_epoch, least=least, labels=labels
        )

    def val_dataloader(self) -> EvaluationLoader:
        """Return the validation batches of this process."""
        return self.evaluation_loader("validation")

    def test_dataloader(self) -> EvaluationLoader:
        """Return the test batches of this process."""
        return self.evaluation_loader("test")

    def evaluation_loader(self, split: str, at_most: int | None = None) -> EvaluationLoader:
        """Return the images of a split in order, or a sample of them.

        Several processes divide the same sample among them.

        Args:
            split: ``train``, ``validation`` or ``test``.
            at_most: size of a sample in proportion to the classes; None for all images.
        """
        images, rows = self.dataset.splits[split], None
        if at_most is not None and at_most < len(images):
            rows = np.sort(draw_even_sample(images.labels, at_most, self.seed))
        return EvaluationLoader(
            images, self.eval_batch_size, *self._get_rank(),
            rows=rows, stored=lambda: self.stored.get(split),
            resident=partial(self._find_resident, split), feed=self.feed,
        )  # fmt: skip

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int = 0) -> Batch:
        """Finish a batch on the device (called by Lightning)."""
        return self.finish(batch)

    def finish(self, batch: Batch) -> Batch:
        """Convert uint8 to float in [0, 1]; augment and mix if the batch carries random numbers.

        Stored features, and batches that the feed has finished, are returned unchanged.
        """
        if "features" in batch or batch["image"].dtype != torch.uint8:
            return batch
        # keeps the memory layout of the cache: channels last
        images = batch["image"].to(torch.float32).div_(255)
        draws = batch.get("draws")
        if draws is not None and self.augmentation.active:
            images = self.augmentation(images, draws, batch.get("choices"))
        used, mix = ("draws", "choices", "mix"), batch.get("mix")
        batch = {key: value for key, value in batch.items() if key not in used}
        batch["image"] = images
        return batch if mix is None else apply_mix(batch, mix, len(self.class_names))
