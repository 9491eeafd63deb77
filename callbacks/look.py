"""One look at the network: what an explanation gets, and what it may cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any

import numpy as np
from convlens.callbacks.pace import Pace
from convlens.callbacks.predictions import Predictions
from torch import Tensor, nn

from convlens.core.photograph import Photograph
from convlens.core.progress import Work
from convlens.data.probes import Probes
from convlens.explain.grad_cam import probabilities
from convlens.explain.mode import wait_for
from convlens.explain.occlusion import compute_logits
from convlens.training.calibration import Calibration
from convlens.training.diary.diary import Diary

FIRST_PIECES = (1, 8)  # units of the first pieces of a look; later ones are whole batches
SLACK = 1.1  # how many times its estimate a piece may take and still end in time
STEADY = 0.5  # part of the time left that several units may take on a CPU, which others may use too
SPLITS = {"val": "validation", "test": "test"}  # by stage


class OutOfTime(Exception):
    """The network was called after the deadline of a look, which ends there."""


@dataclass(frozen=True)
class Portion:
    """What a look of an explanation works through, if there is time for all of it.

    Attributes:
        units: how many units of work.
        what: a unit, in the plural: "probes".
        kind: of the work, see ``Pace``.
        passes: forward passes of one image that a unit costs about, for a kind that was not
            measured yet.
        least: with time for fewer units, none is begun.
        is_bound: whether ``passes`` is only an upper bound.
    """

    units: int
    what: str
    kind: Hashable
    passes: float
    least: int = 1
    is_bound: bool = False


@dataclass(frozen=True)
class Look:
    """One look at the network.

    Attributes:
        network: maps images (B, C, H, W) in [0, 1] to logits; never the distributed wrapper, which
            would wait for the other processes.
        probes: the images to explain, on the network's device.
        class_names: K names.
        clock: completed epochs; 0 is the network before training.
        final: whether this is the last look of the run, which may take its time.
        deadline: reading of ``time.perf_counter`` after which nothing more should be started.
        seed: seed of the run, for callbacks that draw random numbers.
        stage: ``val``, or ``test`` for the look after the test.
        predictions: those of the latest pass over the stage's images; None before the first pass,
            and for callbacks that do not set ``needs_predictions``.
        fetch: takes rows of the stage's split; returns the images (n, C, H, W) on the network's
            device, as the network takes them, and their rows. Images that cannot be read again
            are missing.
        photographs: takes rows of the stage's split and their images (n, C, H, W) from ``fetch``;
            returns them at their own proportions, from their files. None outside convlens runs.
        sources: takes rows; returns the names by which a user finds the images. None likewise.
        sample_images: takes a count; yields that many images of the stage, each class in proportion
            (so is every prefix of them), in batches (B, C, H, W) of at most 50 on the network's
            device. None if there is no data set.
        sample_rows: takes a count; returns the rows of those images in the stage's split.
        sample_labels: takes a count; returns the classes of those images, (count,) int64.
        sample_masks: takes a count; returns their object masks, (count, H, W) bool, or None.
        sample_present: takes a count; returns their classes, (count, K) bool, if images may have
            several; otherwise None.
        sample_objects: takes a count; returns a function from the numbers of one of those images
            and a class to the mask of its objects, (H, W) bool; None if that is not known.
        thresholds: (K,), the probability from which each class counts as predicted, if images may
            have several classes; None if each has one.
        augment: takes images (B, C, H, W) and a seed; returns them augmented as in training. None
            if the run does not augment.
        history: the scalars of each epoch logged so far, from epoch 0; empty outside convlens runs.
        marks: events by epoch, such as ``{"head, top": 5}``.
        diary: what the training images did; None outside convlens runs, and without a diary.
        calibration: how sure the network is of the stage's images; None outside convlens runs,
            before the first pass, and if images may have several classes.
        over_training: ``fetch``, ``photographs`` and the like for the training images.
        memo: results that callbacks share within this look.
        skip_preprocessing: makes a context in which the network takes images from ``fetch``.
        budget_key: the setting that grants this look more time.
        pace: what pieces of explanations take, measured during the run.
        work: shows how far this look is.
        get_backlog: returns the seconds that writing what was found so far will still take.
    """

    network: nn.Module
    probes: Probes
    class_names: tuple[str, ...]
    clock: int
    final: bool
    deadline: float
    seed: int
    stage: str = "val"
    predictions: Predictions | None = None
    fetch: Callable[[Sequence[int]], tuple[Tensor, list[int]]] | None = None
    photographs: Callable[[Sequence[int], Tensor], list[Photograph]] | None = None
    sources: Callable[[Sequence[int]], list[str]] | None = None
    sample_images: Callable[[int], Iterator[Tensor]] | None = None
    sample_rows: Callable[[int], list[int]] | None = None
    sample_labels: Callable[[int], Tensor] | None = None
    sample_masks: Callable[[int], Tensor | None] | None = None
    sample_present: Callable[[int], Tensor | None] | None = None
    sample_objects: Callable[[int], Callable[[int, int], np.ndarray] | None] | None = None
    thresholds: Tensor | None = None
    augment: Callable[[Tensor, int], Tensor] | None = None
    history: Sequence[Mapping[str, float]] = ()
    marks: Mapping[str, int] = field(default_factory=dict)
    diary: Diary | None = None
    calibration: Calibration | None = None
    over_training: Mapping[str, Any] = field(default_factory=dict)
    memo: dict[Any, Any] = field(default_factory=dict)
    skip_preprocessing: Callable[[], AbstractContextManager] = nullcontext
    budget_key: str = "looking.seconds"
    pace: Pace = field(default_factory=Pace)
    work: Work = field(default_factory=Work)
    get_backlog: Callable[[], float] = float

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probabilities (B, K) of logits; several classes have independent ones."""
        return probabilities(logits) if self.thresholds is None else logits.sigmoid()

    @property
    def example(self) -> Tensor:
        """One image, (1, C, H, W)."""
        return self.probes.images[:1]

    @property
    def split(self) -> str:
        """``validation`` or ``test``."""
        return SPLITS[self.stage]

    @property
    def seconds_left(self) -> float:
        """Seconds that may still be spent on this look."""
        return self.deadline - time.perf_counter() - self.get_backlog()

    @property
    def pass_seconds(self) -> float:
        """Seconds of a forward pass of one image, measured when needed; see ``Pace``."""
        if self.pace.estimate("pass", 1) is None:
            with self.timed("pass"):
                compute_logits(self.network, self.example)
        return self.pace.estimate("pass", 1) or 0.0

    def affords(self, kind: Hashable, units: int, passes: float) -> bool:
        """Return whether there is time for all of some units, which cannot be divided.

        Args:
            kind: of the work, see ``Pace``.
            units: how many.
            passes: forward passes of one image that a unit costs about, for a kind that was not
                measured yet.
        """
        fits = SLACK * self.estimate(kind, units, passes) <= self.seconds_left
        if not fits:
            self._doubt(kind)
        return fits

    def _doubt(self, kind: Hashable) -> None:
        """Lower the estimates of work for which there was no time; measure the pass once more."""
        self.pace.doubt(kind)
        if "pass doubted" not in self.memo:
            self.memo["pass doubted"] = True
            self.pace.forget("pass")

    def estimate(self, kind: Hashable, units: int, passes: float) -> float:
        """Return the seconds of some units; the arguments are those of ``affords``."""
        known = self.pace.estimate(kind, units)
        return units * passes * self.pass_seconds if known is None else known

    @contextmanager
    def timed(self, kind: Hashable, units: int = 1) -> Iterator[None]:
        """Record what the work inside the ``with`` takes; see ``Pace``.

        What a GPU was told counts until it is done. Of work that is stopped, it is only known that
        it takes longer.
        """
        began, finished = time.perf_counter(), False
        try:
            yield
            wait_for(self.example.device)
            finished = True
        finally:
            seconds, known = time.perf_counter() - began, self.pace.estimate(kind, units)
            if finished or (known is not None and seconds > known):
                self.pace.note(kind, units, seconds)

    def pieces(
        self, kind: Hashable, total: int, *, batch: int, passes: float, seconds: float = 0.0
    ) -> Iterator[slice]:
        """Yield parts of ``range(total)``, one after the other, as far as the time suffices.

        What happens between two parts is timed, and decides whether the next one is begun. The
        first part is one unit, the next up to eight, later ones up to ``batch``: with time enough
        the parts are the same on any machine, and so is every bit that is computed from them. On
        an accelerator, where a batch takes little longer than an image, the first one is whole.

        Args:
            kind: of the work, see ``Pace``.
            total: units of work.
            batch: maximum units of a part.
            passes: forward passes of one image that a unit costs about, for a kind that was not
                measured yet.
            seconds: what the rest of a unit costs about, such as drawing, for such a kind.
        """
        self.work.begin(total=total)
        done, on_cpu = 0, self.example.device.type == "cpu"
        first, part = (FIRST_PIECES, STEADY) if on_cpu else ((), 1.0)
        for size in chain(first, repeat(batch)):
            most, left = min(size, batch, total - done), self.seconds_left
            if most <= 0:
                return
            if self.pace.estimate(kind, 1) is None:
                guess = seconds + (passes * self.pass_seconds if passes else 0.0)
                count = most if SLACK * guess < left else 0
            else:
                count = self.pace.count_affordable(kind, left / SLACK, most, part)
            if count == 0:
                self._doubt(kind)
                return
            with self.timed(kind, count):
                yield slice(done, done + count)
            self.work.advance(count)
            done += count
