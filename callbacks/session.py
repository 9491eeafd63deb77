"""A session: what the explanations share when they look at the network at the same moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pytorch_lightning as L
import torch
from convlens.callbacks.explanation import Explanation
from convlens.callbacks.ledger import Moment
from convlens.callbacks.look import SPLITS, Look, OutOfTime
from convlens.callbacks.pace import Pace
from convlens.callbacks.predictions import PredictionBook, Predictions
from convlens.callbacks.steps import StepObserver, find_network
from lightning_fabric.utilities import move_data_to_device
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn

from convlens.core.errors import UserError
from convlens.core.evaluation import evaluation_mode, preserve_modes
from convlens.core.photograph import Photograph
from convlens.core.progress import Work
from convlens.data.augment import DRAWS, Augmentation
from convlens.data.datamodule import PictureData
from convlens.data.order import draw_even_sample, make_generator
from convlens.data.pixels.dataset import Images
from convlens.data.pixels.decode import make_recipe
from convlens.data.pixels.photograph import make_photograph, read_photographs
from convlens.data.probes import Probes
from convlens.training import ClassifierModule

BATCH = 50  # images read at once


@dataclass
class _Shared:
    """Results that explanations of the same images with the same settings share.

    Attributes:
        original: the images as given to an explanation.
        settings: ``preprocess``, ``logits`` and ``outputs`` of ``Explanation.watch``.
        probes: the images on the network's device.
        memo: results, see ``Look``.
    """

    original: Probes
    settings: tuple
    probes: Probes
    memo: dict[Any, Any] = field(default_factory=dict)


@dataclass
class Session:
    """The network at one moment of a run: its probes, clock, predictions and shared maps.

    Looking changes nothing: training modes, gradients and random state are kept.

    Attributes:
        trainer: the trainer of the run.
        module: its module, whose network is explained.
        clock: completed epochs.
        own: what was observed of the module's own steps.
        stage: ``val`` or ``test``.
        final: whether this is the last session of the run.
        predictions: those of the latest pass over the stage's images.
        history: the scalars of each epoch.
        late_pass: seconds per image of the call of the network that was running when a deadline
            came, since a call cannot be stopped; 0 if there was none.
    """

    trainer: L.Trainer
    module: L.LightningModule
    clock: int
    own: StepObserver
    stage: str = "val"
    final: bool = False
    predictions: Predictions | None = None
    history: Sequence[Mapping[str, float]] = ()
    late_pass: float = 0.0
    _shared: list[_Shared] = field(default_factory=list)

    @contextmanager
    def look(
        self, explanation: Explanation, deadline: float, pace: Pace, work: Work
    ) -> Iterator[Look]:
        """Prepare the network as ``explanation`` calls it, while the ``with`` lasts.

        Args:
            explanation: the one that looks.
            deadline: see ``Look``. A call of the network after it raises ``OutOfTime``.
            pace: see ``Look``.
            work: see ``Look``.

        Raises:
            UserError: it is not the network that predicts, or its outputs cannot be read.
            OutOfTime: the deadline came before this was known.
        """
        module = self.module
        with preserve_modes(module), ExitStack() as guards:
            network, shared = find_network(self.trainer, module), self._share(explanation)
            guards.enter_context(self._watch_calls(network, deadline))
            with self._note_late_call(deadline, 1):
                verdict = self.own.verdict(module, explanation, shared.probes)
            if verdict.refusal:
                raise UserError(verdict.refusal)
            ours = isinstance(module, ClassifierModule)
            outputs = "logits" if ours else explanation.outputs
            with (
                isolate_rng(),
                explanation.adapt(
                    network, outputs=outputs, preprocessed=verdict.preprocessed
                ) as skip_preprocessing,
            ):
                # what convlens's own network returns is known: an image is enough
                images = shared.probes.images
                explanation.check_outputs(network, images[:1] if ours else images)
                yield Look(
                    network, shared.probes, explanation.class_names, self.clock, self.final,
                    deadline, explanation.seed, self.stage, history=self.history,
                    predictions=self.predictions if explanation.needs_predictions else None,
                    memo=shared.memo, skip_preprocessing=skip_preprocessing,
                    budget_key=self.time_setting,
                    thresholds=_read_thresholds(module),
                    pace=pace, work=work, **self._context,
                )  # fmt: skip

    @contextmanager
    def _watch_calls(self, network: nn.Module, deadline: float) -> Iterator[None]:
        """Refuse calls of the network after the deadline, and time the one that runs past it."""
        began = 0.0

        def check(*_: Any) -> None:
            nonlocal began
            began = time.perf_counter()
            if began > deadline:
                raise OutOfTime

        def note(_: nn.Module, inputs: tuple, output: Any) -> None:
            if began <= deadline < (now := time.perf_counter()) and inputs:
                self.late_pass = (now - began) / len(inputs[0])

        hooks = network.register_forward_pre_hook(check), network.register_forward_hook(note)
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def _note_late_call(self, deadline: float, images: int) -> Iterator[None]:
        """Time in the same way a pass that does not call the network as a whole."""
        began = time.perf_counter()
        try:
            yield
        finally:
            if began <= deadline < (now := time.perf_counter()) and not self.late_pass:
                self.late_pass = (now - began) / images

    @property
    def moment(self) -> Moment:
        """The moment, as the ledger calls it."""
        if self.stage == "test":
            return "test"
        if self.final:
            return "end"
        return "epoch" if self.clock else "start"

    @property
    def when(self) -> str:
        """The moment, in words."""
        epoch = f"after epoch {self.clock}"
        words = {"test": "after the test", "end": "at the end", "start": "before training"}
        return words.get(self.moment, epoch)

    @property
    def time_setting(self) -> str:
        """The setting that grants the looks of this session more time."""
        if self.stage == "test":  # at least the time of an epoch's looks
            return get_time_setting(self.module, max(self.clock, 1), final=False)
        return get_time_setting(self.module, self.clock, final=self.final)

    @cached_property
    def _context(self) -> dict[str, Any]:
        return gather_context(
            get_datamodule(self.trainer), self.module, self.stage, self.predictions
        )

    def _share(self, explanation: Explanation) -> _Shared:
        original = explanation.probes
        assert original is not None, "explanations without probes do not look"
        settings = (explanation.preprocess, explanation.logits, explanation.outputs)
        for each in self._shared:
            if each.settings == settings and _are_equal(each.original, original):
                return each
        probes = replace(original, images=original.images.to(self.module.device))
        self._shared.append(_Shared(original, settings, probes))
        return self._shared[-1]


def _are_equal(one: Probes, other: Probes) -> bool:
    return one is other or (
        (one.names, one.sources) == (other.names, other.sources)
        and one.masks is other.masks
        and torch.equal(one.labels, other.labels)
        and torch.equal(one.images, other.images)
    )


def get_datamodule(trainer: L.Trainer) -> L.LightningDataModule | None:
    """Return the trainer's data module, which Lightning sets without declaring it."""
    return cast(Any, trainer).datamodule


def get_callbacks(trainer: L.Trainer) -> list[L.Callback]:
    """Return the trainer's own list of callbacks, which Lightning sets without declaring it."""
    return cast(Any, trainer).callbacks


def get_time_setting(module: L.LightningModule, clock: int, *, final: bool) -> str:
    """Return the setting that grants more time to the looks at ``clock``."""
    ours = isinstance(module, ClassifierModule)
    if final:
        return "looking.last_seconds" if ours else "Ledger(at_end=…)"
    if clock == 0:
        return "looking.first_seconds" if ours else "Ledger(at_start=…)"
    return "looking.seconds" if ours else "Looks(ledger=Ledger(floor=…))"


@torch.no_grad()
def predict_validation(trainer: L.Trainer, module: L.LightningModule, book: PredictionBook) -> None:
    """Collect the predictions on the validation images, as an epoch's validation would.

    This is for runs without an epoch. Outside convlens runs nothing is collected.
    """
    data = get_datamodule(trainer)
    if not (isinstance(data, PictureData) and isinstance(module, ClassifierModule)):
        return
    book.begin(hold=False)
    with evaluation_mode(module), trainer.precision_plugin.forward_context():
        for batch in data.evaluation_loader("validation"):
            moved = data.finish(move_data_to_device(batch, module.device))
            book.take({"logits": module.compute_logits(moved)}, moved)
    book.end("val")


def gather_context(
    data: L.LightningDataModule | None, module: L.LightningModule, stage: str,
    predictions: Predictions | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return the fields of a ``Look`` that come from the run.

    In convlens runs these are data, augmentation and phases; in other projects only the images
    that ``predictions`` holds.
    """
    context: dict[str, Any] = {"marks": _find_marks(module)}
    if isinstance(module, ClassifierModule):
        context["calibration"] = module.calibrator.get(stage)
    if isinstance(data, PictureData):
        pictures = data.dataset.splits[SPLITS[stage]]
        context |= _build_readers(pictures, data, module.device)
        if (diary := getattr(module, "diary", None)) is not None:
            readers = _build_readers(data.dataset.splits["train"], data, module.device)
            context |= {"diary": diary, "over_training": readers}
        schedule = getattr(module, "schedule", None)
        if data.augmentation.changes_images and (schedule is None or schedule.augments):
            context["augment"] = partial(_augment, data.augmentation)
    elif predictions is not None:
        context["fetch"] = lambda rows: _fetch_available(predictions, rows, module.device)
    return context


def _build_readers(pictures: Images, data: PictureData, device: torch.device) -> dict[str, Any]:
    def read(rows: np.ndarray) -> Tensor:
        images = torch.from_numpy(pictures.pixels(rows)).permute(0, 3, 1, 2)
        return images.to(device).contiguous().float().div_(255)

    def photographs(rows: Sequence[int], images: Tensor) -> list[Photograph]:
        if (files := pictures.files) is None:
            return [make_photograph(image) for image in images]
        return read_photographs((files[row] for row in rows), images, make_recipe(data.spec))

    def sample(count: int) -> np.ndarray:
        return draw_even_sample(pictures.labels, count, data.seed)

    def batches(count: int) -> Iterator[Tensor]:
        rows = sample(count)
        for start in range(0, len(rows), BATCH):
            yield read(rows[start : start + BATCH])

    def take(values: np.ndarray | None, count: int) -> Tensor | None:
        return None if values is None else torch.from_numpy(np.asarray(values[sample(count)]))

    def sample_objects(count: int) -> Callable[[int, int], np.ndarray] | None:
        draw, rows = pictures.objects, sample(count)
        return None if draw is None else lambda image, label: draw(int(rows[image]), label)

    return {
        "fetch": lambda rows: (read(np.asarray(rows, dtype=int)), list(rows)),
        "photographs": photographs,
        "sample_images": batches,
        "sources": lambda rows: [pictures.names[row] for row in rows],
        "sample_rows": lambda count: sample(count).tolist(),
        "sample_labels": lambda count: torch.from_numpy(pictures.labels[sample(count)]),
        "sample_masks": lambda count: take(pictures.masks, count),
        "sample_present": lambda count: take(pictures.present, count),
        "sample_objects": sample_objects,
    }


def _augment(augmentation: Augmentation, images: Tensor, seed: int) -> Tensor:
    """Return images augmented with numbers that depend on the seed of the run only."""
    draws = make_generator(seed, 7).random((len(images), DRAWS))
    choices = make_generator(seed, 8).random((len(images), augmentation.policy.numbers))
    return augmentation(images, torch.from_numpy(draws).float(), choices)


def _fetch_available(
    predictions: Predictions, rows: Sequence[int], device: torch.device
) -> tuple[Tensor, list[int]]:
    available = [row for row in rows if row in predictions.images]
    if not available:
        return torch.zeros(0, 1, 1, 1, device=device), []
    return torch.stack([predictions.images[row] for row in available]).to(device), available


def _find_marks(module: L.LightningModule) -> dict[str, int]:
    """Return after how many epochs each phase but the first began, by the groups it trains."""
    if not isinstance(module, ClassifierModule) or len(module.schedule.phases) < 2:
        return {}
    schedule, record = module.schedule, module.record
    phases = [schedule.phase_at(epoch, record)[0] for epoch in range(max(record, default=-1) + 1)]
    return {
        ", ".join(phase.train): epoch
        for epoch, (before, phase) in enumerate(pairwise(phases), start=1)
        if phase is not before
    }


def _read_thresholds(module: L.LightningModule) -> Tensor | None:
    """Return the thresholds of the classes, on the CPU; None unless images may have several."""
    if not isinstance(module, ClassifierModule) or module.thresholds is None:
        return None
    return cast(Tensor, module.thresholds).cpu()
