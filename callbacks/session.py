"""One look session: what all explanations share that look at the network at one moment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import pytorch_lightning as L
import torch
from convlens.callbacks.answers import Answers
from convlens.callbacks.explained import OwnAnswers, network_of
from convlens.callbacks.explanation import SPLITS, Explanation, Look
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor

from convlens.core.errors import UserError
from convlens.core.evaluation import preserve_modes
from convlens.data.augment import DRAWS
from convlens.data.datamodule import PictureData
from convlens.data.order import draw_even_sample, make_generator
from convlens.data.pixels.dataset import Images
from convlens.data.probes import Probes
from convlens.training import ClassifierModule

AT_ONCE = 50


@dataclass
class _Shared:
    """What is found once for all that explain the same pictures in the same way.

    Attributes:
        given: the pictures, as an explanation has them.
        way: how the network is asked, see :meth:`Explanation.watch`.
        probes: the pictures on the network's device.
    """

    given: Probes
    way: tuple
    probes: Probes
    memo: dict = field(default_factory=dict)


@dataclass
class Session:
    """The network at one moment of a run: its probes, clock, answers and shared maps.

    Looking changes nothing: training modes, gradients and random state are as before.

    Attributes:
        trainer, module: whose network is looked at.
        clock: completed epochs.
        own: what is known of the module's own answers.
        stage: ``val`` or ``test``.
        final: whether it is the run's last.
        answers: of the latest pass over the stage's pictures.
        history: scalars by epoch.
    """

    trainer: L.Trainer
    module: L.LightningModule
    clock: int
    own: OwnAnswers
    stage: str = "val"
    final: bool = False
    answers: Answers | None = None
    history: Sequence[Mapping[str, float]] = ()
    _shared: list[_Shared] = field(default_factory=list)

    @contextmanager
    def look(self, explanation: Explanation, deadline: float) -> Iterator[Look]:
        """The network as ``explanation`` asks it, while the ``with`` lasts.

        Args:
            deadline: see :class:`Look`.

        Raises:
            UserError: it is not the network that answers, or its outputs cannot be read.
        """
        module = self.module
        with preserve_modes(module):
            network, shared = network_of(self.trainer, module), self._shared_by(explanation)
            verdict = self.own.verdict(module, explanation, shared.probes)
            if verdict.refusal:
                raise UserError(verdict.refusal)
            ours = isinstance(module, ClassifierModule)
            outputs = "logits" if ours else explanation.outputs
            with (
                isolate_rng(),
                explanation.asking(network, outputs=outputs, fed=verdict.fed) as fed,
            ):
                explanation.check_outputs(network, shared.probes.images)
                yield Look(
                    network, shared.probes, explanation.class_names, self.clock, self.final,
                    deadline, explanation.seed, self.stage, history=self.history, fed=fed,
                    answers=self.answers if explanation.needs_answers else None,
                    memo=shared.memo, **self._surroundings,
                )  # fmt: skip

    @cached_property
    def _surroundings(self) -> dict:
        return surroundings(self.trainer.datamodule, self.module, self.stage, self.answers)

    def _shared_by(self, explanation: Explanation) -> _Shared:
        given = explanation.probes
        way = (explanation.preprocess, explanation.logits, explanation.outputs)
        for each in self._shared:
            if each.way == way and _alike(each.given, given):
                return each
        probes = replace(given, images=given.images.to(self.module.device))
        self._shared.append(_Shared(given, way, probes))
        return self._shared[-1]


def _alike(one: Probes, other: Probes) -> bool:
    return one is other or (
        (one.names, one.sources) == (other.names, other.sources)
        and one.masks is other.masks
        and torch.equal(one.labels, other.labels)
        and torch.equal(one.images, other.images)
    )


def surroundings(
    data: L.LightningDataModule | None, module: L.LightningModule, stage: str,
    answers: Answers | None = None,
) -> dict:  # fmt: skip
    """The fields of a :class:`~convlens.callbacks.explanation.Look` that come from the run.

    In convlens's own runs all of them are there: data, augmentation, phases; in another project
    only pictures that the answers hold.
    """
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


def _of_pictures(pictures: Images, device: torch.device, seed: int) -> dict:
    def read(rows: np.ndarray) -> Tensor:
        images = torch.from_numpy(pictures.pixels(rows)).permute(0, 3, 1, 2)
        return images.to(device).contiguous().float().div_(255)

    def sample(count: int) -> np.ndarray:
        return draw_even_sample(pictures.labels, count, seed)

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
    return torch.from_numpy(make_generator(seed, 7).random((len(images), DRAWS))).float()


def _held(answers: Answers, rows: Sequence[int], device) -> tuple[Tensor, list[int]]:
    kept = [row for row in rows if row in answers.held]
    if not kept:
        return torch.zeros(0, 1, 1, 1, device=device), []
    return torch.stack([answers.held[row] for row in kept]).to(device), kept


def _marks(module: L.LightningModule) -> dict[str, int]:
    """After how many epochs which groups began to be trained; the first phase is no event."""
    if not isinstance(module, ClassifierModule) or len(module.schedule.phases) < 2:
        return {}
    schedule, record = module.schedule, module.record
    trained = [schedule.phase_at(epoch, record)[0] for epoch in range(max(record, default=-1) + 1)]
    return {
        ", ".join(phase.train): epoch
        for epoch, (before, phase) in enumerate(pairwise(trained), start=1)
        if phase is not before
    }
