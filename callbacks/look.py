"""One look at the network, as an explanation gets it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from convlens.callbacks.answers import Answers
from torch import Tensor, nn

from convlens.data.probes import Probes


@dataclass(frozen=True)
class Look:
    """One look at the network.

    Attributes:
        network: pictures (B, C, H, W) in [0, 1] to logits; never the distributed wrapper, which
            would wait for the other processes.
        probes: the pictures to explain, on the network's device.
        class_names: K names.
        clock: completed epochs; 0 is the network before training.
        final: the run's last look, which may take its time.
        deadline: reading of ``time.perf_counter`` after which nothing more should be begun.
        seed: of the run, for callbacks that draw random numbers.
        stage: ``val``, or ``test`` for the look behind the test.
        answers: of the latest pass over the stage's pictures; None before there was one, and for
            callbacks that do not set ``needs_answers``.
        fetch: rows of the stage's split to pictures (n, C, H, W) as the network takes them, on its
            device, without those that are not to be had; and the rows that are.
        pictures: ``pictures(count)``: so many of the stage's pictures, each class in proportion
            (so is every beginning of them), in batches (B, C, H, W) of at most 50 on the network's
            device; None where there is no data set.
        labels: ``labels(count)``: the classes of those pictures, (count,) int64; or None.
        masks: ``masks(count)``: their objects, (count, H, W) bool; None where there are none.
        augment: ``augment(images, seed)``: the run's augmentation of (B, C, H, W); or None.
        history: scalars by epoch, from epoch 0, as far as they are written; empty elsewhere.
        marks: what happened after how many epochs, such as ``{"head, top": 5}``.
        memo: what callbacks of this look have found, for those that come after them.
        fed: a context in which the network takes what ``fetch`` gives.
    """

    network: nn.Module
    probes: Probes
    class_names: tuple[str, ...]
    clock: int
    final: bool
    deadline: float
    seed: int
    stage: str = "val"
    answers: Answers | None = None
    fetch: Callable[[Sequence[int]], tuple[Tensor, list[int]]] | None = None
    pictures: Callable[[int], Iterator[Tensor]] | None = None
    labels: Callable[[int], Tensor] | None = None
    masks: Callable[[int], Tensor | None] | None = None
    augment: Callable[[Tensor, int], Tensor] | None = None
    history: Sequence[Mapping[str, float]] = ()
    marks: Mapping[str, int] = field(default_factory=dict)
    memo: dict = field(default_factory=dict)
    fed: Callable[[], AbstractContextManager] = nullcontext

    @property
    def example(self) -> Tensor:
        """One picture, (1, C, H, W)."""
        return self.probes.images[:1]

    @property
    def left(self) -> float:
        """Seconds that may still be spent on this look."""
        return self.deadline - time.perf_counter()
