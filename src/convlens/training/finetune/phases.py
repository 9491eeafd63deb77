"""Start the phases of a schedule: freeze, unfreeze, load stored features, re-wrap for DDP."""

from __future__ import annotations

import gc
import logging
import shutil
from pathlib import Path

import pytorch_lightning as L
import torch
from pytorch_lightning.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel

from convlens.core.errors import UserError
from convlens.core.evaluation import evaluation_mode
from convlens.core.stopwatch import count_seconds
from convlens.data.datamodule import PictureData
from convlens.training.finetune.features import Features, compute_features
from convlens.training.finetune.schedule import Phase, Schedule
from convlens.training.module import ClassifierModule

log = logging.getLogger("convlens")
ROOM = 0.5  # fraction of the free disk space that features may take with `auto`


def find_cut(
    schedule: Schedule, phase: Phase, module: ClassifierModule, augmented: bool
) -> tuple[int, str]:
    """Find where the network can be cut in a phase.

    The links before the cut must be frozen, in evaluation mode, and see the same images every
    epoch.

    Args:
        schedule: the schedule.
        phase: one of its phases.
        module: the module to be trained.
        augmented: whether ``data.augment`` changes images if the phase allows it.

    Returns:
        The number of links before the cut; if it is 0, also the reason.
    """
    if phase.augment and augmented:
        return 0, "the images are augmented"
    trained = schedule.trained(phase)
    if module.averaging is not None:  # the average of what was trained before still changes
        for earlier in schedule.phases[: phase.number]:
            trained |= schedule.trained(earlier)
    names = {id(parameter): name for name, parameter in module.model.named_parameters()}
    backbone = module.model.backbone
    cut = frozen = 0
    for link in backbone.link_names:
        parameters = [names[id(p)] for p in backbone.get_submodule(link).parameters()]
        if trained.intersection(parameters):
            break
        cut, frozen = cut + 1, frozen + len(parameters)
    if not frozen:
        return 0, "no stage at the network's beginning is frozen"
    if schedule.batch_norm == "train":
        return 0, "finetune.batch_norm=train updates the statistics of frozen layers"
    return cut, ""


class Phases(L.Callback):
    """Starts each phase of the module's schedule, also after a resume.

    Under DDP the network is wrapped again whenever the set of trained parameters changes,
    because the wrapper reduces only parameters that were trained when it was created. The module
    averages batch-normalisation statistics over the processes before every validation, so that all
    processes evaluate and save the same network.

    It must come before the callbacks that explain and log.

    Args:
        caching: ``auto``, ``always`` or ``never``: whether to train on stored features.
        directory: folder of the feature cache.
        precision: as in the config; replaced once ``auto`` is resolved.

    Attributes:
        tested_epoch: completed epochs of the network under test.
        fetches: one entry per split and cut, with ``split``, ``cut``, ``hit``, ``megabytes`` and
            ``seconds``.

    Raises:
        UserError: ``always``, but a phase cannot train on stored features.
    """

    def __init__(self, caching: str, directory: Path, precision: str):
        self.caching, self.directory, self.precision = caching, directory, precision
        self._bytes: dict[int, int] = {}  # of one image's features, by cut
        self.fetches: list[dict] = []
        self.tested_epoch: int | None = None
        self._wrapped: frozenset[str] | None = None

    # --- Lightning's hooks

    def on_fit_start(self, trainer: L.Trainer, pl_module: ClassifierModule) -> None:
        self._wrapped = _trained_names(pl_module)

    def on_train_start(self, trainer: L.Trainer, pl_module: ClassifierModule) -> None:
        if pl_module.schedule.is_finished(trainer.current_epoch, pl_module.record):
            trainer.should_stop = True  # resumed after the last phase ended early
        self._begin(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: ClassifierModule) -> None:
        self._begin(trainer, pl_module)
        pl_module.train()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: ClassifierModule) -> None:
        pl_module.use_average(True)  # batches may have followed the last validation
        epochs = trainer.current_epoch + 1
        if pl_module.schedule.is_finished(epochs, pl_module.record):
            trainer.should_stop = True

    def on_test_start(self, trainer: L.Trainer, pl_module: ClassifierModule) -> None:
        """Use stored features for the test images too, shared by all runs."""
        data: PictureData = trainer.datamodule
        data.stored = {}
        if self.tested_epoch and not trainer.fast_dev_run:
            phase, _ = pl_module.schedule.phase_at(self.tested_epoch - 1, pl_module.record)
            if cut := self.cut(pl_module, data, phase):
                data.stored = {"test": self.fetch(trainer, pl_module, data, "test", cut)}

    # --- phases and their features

    def _begin(self, trainer: L.Trainer, module: ClassifierModule) -> None:
        phase, _ = module.schedule.phase_at(trainer.current_epoch, module.record)
        module.enter(phase)
        rewrap(trainer, module, self._wrapped)
        self._wrapped = _trained_names(module)
        data: PictureData = trainer.datamodule
        data.augmenting = phase.augment
        # a dry run of one batch does not need the features of all images
        is_trial = trainer.fast_dev_run and self.caching == "auto"
        cut = 0 if is_trial else self.cut(module, data, phase)
        module.uses_stored_features = bool(cut)
        now = data.stored.get("train")
        if (now.cut if now else 0) != cut:
            data.stored = {}
            if cut:
                data.stored = self._fetch(trainer, module, data, phase, cut)

    def cut(self, module: ClassifierModule, data: PictureData, phase: Phase) -> int:
        """Return the number of links before the cut in a phase; 0 to train end to end."""
        if self.caching == "never":
            return 0
        cut, why_not = find_cut(module.schedule, phase, module, data.augmentation.active)
        if not cut and self.caching == "always":
            raise UserError(
                f"cache_features=always: phase {phase.number + 1} cannot use stored features: "
                f"{why_not}; try finetune.phases.{phase.number}.augment=false, freeze more, or "
                f"cache_features=auto"
            )
        if (
            cut
            and self.caching == "auto"
            and (shortage := self._describe_shortage(module, data, cut))
        ):
            log.info("features are not stored: %s", shortage)
            return 0
        return cut

    def check(self, module: ClassifierModule, data: PictureData) -> None:
        """Raise a UserError early if ``always`` is impossible in any phase."""
        if self.caching == "always":
            for phase in module.schedule.phases:
                self.cut(module, data, phase)

    def _describe_shortage(self, module: ClassifierModule, data: PictureData, cut: int) -> str:
        """Return why the features of all splits do not fit on the disk, or an empty text."""
        if cut not in self._bytes:
            self._bytes[cut] = self._bytes_at(module, cut)
        images = sum(int(counts.sum()) for counts in data.index.counts.values())
        needed = images * self._bytes[cut]
        place = next(p for p in (self.directory, *self.directory.parents) if p.exists())
        free = shutil.disk_usage(place).free
        if needed <= ROOM * free:
            return ""
        return (
            f"{needed / 1e9:.1f} GB for {images} images, {free / 1e9:.1f} GB free in {place}; "
            f"cache_features=always stores them anyway"
        )

    def _bytes_at(self, module: ClassifierModule, cut: int) -> int:
        """Return the size in bytes of one image's features at ``cut``."""
        size, parameter = module.data_config.size, next(module.model.parameters())
        example = parameter.new_zeros(1, module.data_config.channels, size, size)
        with torch.no_grad(), evaluation_mode(module.model):
            values = module.model.features(example, cut)
        half = self.precision in ("bf16", "16")
        return values.numel() * (2 if half else values.element_size())

    def _fetch(
        self,
        trainer: L.Trainer,
        module: ClassifierModule,
        data: PictureData,
        phase: Phase,
        cut: int,
    ) -> dict[str, Features]:
        """Load the features of training and validation images at ``cut``.

        If a later phase needs an earlier cut, one pass computes both.
        """
        later = [p for p in module.schedule.phases if p.number > phase.number]
        cuts = sorted({cut, *(c for p in later if 0 < (c := self.cut(module, data, p)) < cut)})
        stored: dict[str, Features] = {}
        for split in ("train", "validation"):
            for depth in cuts:
                stored[split] = self.fetch(trainer, module, data, split, depth, stored.get(split))
        return stored

    def fetch(
        self,
        trainer: L.Trainer,
        module: ClassifierModule,
        data: PictureData,
        split: str,
        cut: int,
        base: Features | None = None,
    ) -> Features:
        """Load the features of one split at ``cut`` and log it.

        Args:
            trainer: gives the precision's context.
            module: the network.
            data: the images.
            split: name of the split.
            cut: number of links before the cut.
            base: features of the same split at an earlier cut, to continue from.
        """
        pictures = data.dataset.splits[split]
        with count_seconds("features"):
            result = compute_features(
                module.model,
                cut,
                pictures,
                precision=self.precision,
                context=trainer.precision_plugin.forward_context,
                device=module.device,
                directory=self.directory,
                title=f"features of {len(pictures)} {split} images",
                base=base,
            )
        how = (
            "cache hit" if result.from_cache else f"cache miss, computed in {result.seconds:.0f} s"
        )
        name = module.model.cut_name(cut)
        log.info(
            "features of %d %s images at %s: %s, %.0f MB",
            len(pictures), split, name, how, result.megabytes,
        )  # fmt: skip
        self.fetches.append(
            {"split": split, "cut": name, "hit": result.from_cache,
             "megabytes": round(result.megabytes, 3), "seconds": round(result.seconds, 3)}
        )  # fmt: skip
        return result


def _trained_names(module: torch.nn.Module) -> frozenset[str]:
    return frozenset(name for name, p in module.named_parameters() if p.requires_grad)


def rewrap(trainer: L.Trainer, module: L.LightningModule, before: frozenset[str] | None) -> None:
    """Wrap ``module`` for DDP again if the set of trained parameters has changed.

    Parameters that are frozen when DDP wraps the model are never reduced after they are unfrozen,
    and the replicas silently drift apart (Lightning issue 20340).

    Args:
        trainer: the trainer.
        module: the module.
        before: names of the parameters that were trained before.
    """
    strategy = trainer.strategy
    if not isinstance(strategy, DDPStrategy) or _trained_names(module) == before:
        return
    if not isinstance(strategy.model, DistributedDataParallel):
        return
    # otherwise the hooks of the old wrapper would keep reducing
    strategy.model._remove_autograd_hooks()
    strategy.model = module
    gc.collect()
    strategy.configure_ddp()
