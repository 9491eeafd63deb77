"""Phases as they come: freeze, unfreeze, fetch features, keep the processes alike."""

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
ROOM = 0.5  # of the free disk that features may take before `auto` trains without


def find_cut(
    schedule: Schedule, phase: Phase, module: ClassifierModule, augmented: bool
) -> tuple[int, str]:
    """Where the network may be cut in a phase, and why not where it is 0.

    What stands before the cut has to be frozen, in evaluation mode, and fed with the same pictures
    every epoch.

    Args:
        augmented: whether ``data.augment`` changes pictures where the phase lets it.
    """
    if phase.augment and augmented:
        return 0, "the pictures are augmented"
    trained = schedule.trained(phase)
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
        return 0, "finetune.batch_norm=train lets the statistics of frozen layers move"
    return cut, ""


class Phases(L.Callback):
    """Puts each phase of the module's schedule into force when it begins, after a resume too.

    Under DDP the network is wrapped anew whenever other parameters are trained than before: the
    wrapper reduces only what wanted a gradient when it was made. Statistics of batch normalisation
    in training are averaged over the processes before every validation, so that all processes
    judge, and save, one and the same network.

    It has to stand before the callbacks that look and log.

    Args:
        caching: ``auto``, ``always`` or ``never``: whether the head trains on stored features.
        directory: of the feature cache.
        precision: as the config has it; set anew once ``auto`` is resolved.

    Attributes:
        fetches: one entry a split and cut: ``split``, ``cut``, ``hit``, ``megabytes``, ``seconds``.

    Raises:
        UserError: ``always`` where it would be wrong, saying why.
    """

    def __init__(self, caching: str, directory: Path, precision: str):
        self.caching, self.directory, self.precision = caching, directory, precision
        self._bytes: dict[int, int] = {}  # of one picture's features, by their cut
        self.fetches: list[dict] = []
        self.tested_epoch: int | None = None  # completed epochs of the network that is tested
        self._wrapped: frozenset[str] | None = None

    # --- when

    def on_fit_start(self, trainer: L.Trainer, pl_module: ClassifierModule) -> None:
        self._wrapped = _learning(pl_module)

    def on_train_start(self, trainer: L.Trainer, pl_module: ClassifierModule) -> None:
        if pl_module.schedule.is_finished(trainer.current_epoch, pl_module.record):
            trainer.should_stop = True  # resumed behind a last phase that ended early
        self._begin(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: ClassifierModule) -> None:
        self._begin(trainer, pl_module)
        pl_module.train()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: ClassifierModule) -> None:
        epochs = trainer.current_epoch + 1
        if pl_module.schedule.is_finished(epochs, pl_module.record):
            trainer.should_stop = True

    def on_test_start(self, trainer: L.Trainer, pl_module: ClassifierModule) -> None:
        """Test pictures too go through a frozen base only once, whichever run asks."""
        data: PictureData = trainer.datamodule
        data.stored = {}
        if self.tested_epoch and not trainer.fast_dev_run:
            phase, _ = pl_module.schedule.phase_at(self.tested_epoch - 1, pl_module.record)
            if cut := self.cut(pl_module, data, phase):
                data.stored = {"test": self.fetch(trainer, pl_module, data, "test", cut)}

    # --- what

    def _begin(self, trainer: L.Trainer, module: ClassifierModule) -> None:
        phase, _ = module.schedule.phase_at(trainer.current_epoch, module.record)
        module.enter(phase)
        rewrap(trainer, module, self._wrapped)
        self._wrapped = _learning(module)
        data: PictureData = trainer.datamodule
        data.augmenting = phase.augment
        # one batch of everything needs no features of all pictures
        trial = trainer.fast_dev_run and self.caching == "auto"
        cut = 0 if trial else self.cut(module, data, phase)
        module.uses_stored_features = bool(cut)
        now = data.stored.get("train")
        if (now.cut if now else 0) != cut:
            data.stored = {}
            if cut:
                data.stored = self._fetch(trainer, module, data, phase, cut)

    def cut(self, module: ClassifierModule, data: PictureData, phase: Phase) -> int:
        """Links before the cut in a phase; 0 where the network is trained end to end."""
        if self.caching == "never":
            return 0
        cut, why_not = find_cut(module.schedule, phase, module, data.augmentation.active)
        if not cut and self.caching == "always":
            raise UserError(
                f"cache_features=always: phase {phase.number + 1} cannot train on stored "
                f"features, {why_not}; set finetune.phases.{phase.number}.augment=false, freeze "
                f"more, or say cache_features=auto"
            )
        if cut and self.caching == "auto" and (short := self._short_of_room(module, data, cut)):
            log.info("features are not stored: %s", short)
            return 0
        return cut

    def check(self, module: ClassifierModule, data: PictureData) -> None:
        """Refuse ``always`` before anything costly is done."""
        if self.caching == "always":
            for phase in module.schedule.phases:
                self.cut(module, data, phase)

    def _short_of_room(self, module: ClassifierModule, data: PictureData, cut: int) -> str:
        """Why there is no room for the features of all splits, or nothing."""
        if cut not in self._bytes:
            self._bytes[cut] = self._bytes_at(module, cut)
        pictures = sum(int(counts.sum()) for counts in data.index.counts.values())
        needed = pictures * self._bytes[cut]
        place = next(p for p in (self.directory, *self.directory.parents) if p.exists())
        free = shutil.disk_usage(place).free
        if needed <= ROOM * free:
            return ""
        return (
            f"{needed / 1e9:.1f} GB for {pictures} pictures, {free / 1e9:.1f} GB free in {place} "
            f"(cache_features=always takes them all the same)"
        )

    def _bytes_at(self, module: ClassifierModule, cut: int) -> int:
        """Bytes that one picture's features behind ``cut`` take."""
        size, parameter = module.data_config.size, next(module.model.parameters())
        example = parameter.new_zeros(1, module.data_config.channels, size, size)
        with torch.no_grad(), evaluation_mode(module.model):
            found = module.model.features(example, cut)
        half = self.precision in ("bf16", "16")
        return found.numel() * (2 if half else found.element_size())

    def _fetch(
        self,
        trainer: L.Trainer,
        module: ClassifierModule,
        data: PictureData,
        phase: Phase,
        cut: int,
    ) -> dict[str, Features]:
        """Features of training and validation pictures behind ``cut``.

        Where a later phase will want an earlier cut, the network up to there runs once for both.
        """
        later = [p for p in module.schedule.phases if p.number > phase.number]
        cuts = sorted({cut, *(c for p in later if 0 < (c := self.cut(module, data, p)) < cut)})
        found: dict[str, Features] = {}
        for split in ("train", "validation"):
            for depth in cuts:
                found[split] = self.fetch(trainer, module, data, split, depth, found.get(split))
        return found

    def fetch(
        self,
        trainer: L.Trainer,
        module: ClassifierModule,
        data: PictureData,
        split: str,
        cut: int,
        base: Features | None = None,
    ) -> Features:
        """Features of one split, told in a line."""
        pictures = data.dataset.splits[split]
        with count_seconds("features"):
            found = compute_features(
                module.model,
                cut,
                pictures,
                precision=self.precision,
                context=trainer.precision_plugin.forward_context,
                device=module.device,
                directory=self.directory,
                title=f"features of {len(pictures)} {split} pictures",
                base=base,
            )
        how = "cache hit" if found.from_cache else f"cache miss, computed in {found.seconds:.0f} s"
        name = module.model.cut_name(cut)
        log.info(
            "features of %d %s pictures behind %s: %s, %.0f MB",
            len(pictures), split, name, how, found.megabytes,
        )  # fmt: skip
        self.fetches.append(
            {"split": split, "cut": name, "hit": found.from_cache,
             "megabytes": round(found.megabytes, 3), "seconds": round(found.seconds, 3)}
        )  # fmt: skip
        return found


def _learning(module: torch.nn.Module) -> frozenset[str]:
    return frozenset(name for name, p in module.named_parameters() if p.requires_grad)


def rewrap(trainer: L.Trainer, module: L.LightningModule, before: frozenset[str] | None) -> None:
    """Wrap ``module`` for DDP anew if other parameters are trained than ``before``.

    Lightning's issue 20340: parameters frozen when DDP wraps the model are never reduced after
    they are unfrozen, and the replicas drift apart in silence.
    """
    strategy = trainer.strategy
    if not isinstance(strategy, DDPStrategy) or _learning(module) == before:
        return
    if not isinstance(strategy.model, DistributedDataParallel):
        return
    # the old wrapper's hooks would go on reducing what it knew
    strategy.model._remove_autograd_hooks()
    strategy.model = module
    gc.collect()
    strategy.configure_ddp()
