"""What an explanation is: of which pictures, asked of the network in which way, it draws what.

It knows nothing of a trainer; :class:`convlens.callbacks.looks.Looks` says when it looks.
"""

from __future__ import annotations

import gc
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytorch_lightning as L
import torch
from convlens.callbacks.answers import Answers
from torch import Tensor, nn

from convlens.core.errors import UserError, nearest
from convlens.data.probes import Probes
from convlens.explain.mode import explaining, preprocessing, ready
from convlens.explain.outputs import OUTPUTS, answering, check_outputs, picking

log = logging.getLogger("convlens")
SPLITS = {"val": "validation", "test": "test"}  # by stage
T = TypeVar("T")
Findings = Iterator[tuple[str, np.ndarray | float]]  # tags, each with a picture or a number


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
    def split(self) -> str:
        """``validation`` or ``test``."""
        return SPLITS[self.stage]

    @property
    def left(self) -> float:
        """Seconds that may still be spent on this look."""
        return self.deadline - time.perf_counter()


class Explanation(L.Callback, ABC):
    """One kind of pictures of the network.

    A subclass says only what to draw: ``pictures(look)`` yields ``(tag, picture)`` or
    ``(tag, number)`` one by one, the most telling first, and stops early when ``look.left`` falls
    below zero.

    Args:
        every_n_epochs: looks between the first and the last epoch; the budget may thin them out
            further, see :class:`convlens.callbacks.ledger.Ledger`.
        batch: pictures of a pass at most; halved when memory runs out.

    Attributes:
        needs_answers: whether the answers to validation and test pictures are collected for it.
        looks_at_test: whether it looks again behind the test.
        reckons: whether it reckons itself what its next picture will take; of others that is the
            dearest of the look before.
        has_final_look: whether the end of the run shows more than the end of an epoch.
        cut: what the budget left out of the look under way, in a line, or nothing.
        readable: False once the network's outputs have turned out to be no logits.
    """

    needs_answers = looks_at_test = reckons = has_final_look = False

    def __init__(self, *, every_n_epochs: int = 1, batch: int = 32):
        self.every_n_epochs, self.batch = every_n_epochs, batch
        self.preprocess: Callable[[Tensor], Tensor] | None = None
        self.logits: str | int | Callable | None = None
        self.outputs = "auto"
        self.probes: Probes | None = None
        self.class_names: tuple[str, ...] = ()
        self.folder: Path | None = None
        self.seed = 0
        self.cut = ""
        self.readable = True
        self._said: set[str] = set()
        self._turn = 0  # where the next look begins, if the budget ended the one before
        self._network: nn.Module | None = None  # that of the latest look,
        self._found: dict[Callable, Any] = {}  # and what has been found in it
        self._read: nn.Module | None = None  # the network whose outputs have been looked at

    @property
    def name(self) -> str:
        return type(self).__name__

    # --- of what

    def attach(
        self, probes: Probes, class_names: tuple[str, ...], folder: Path | None, seed: int
    ) -> None:
        """Give the callback the run's probes, names, folder for files, and seed."""
        self.probes, self.class_names = probes, tuple(class_names)
        self.folder, self.seed = folder, seed

    def watch(
        self, images: Tensor, labels: Tensor | None = None, class_names: Sequence[str] = (), *,
        names: Sequence[str] | None = None, folder: str | Path | None = None, seed: int = 0,
        preprocess: Callable[[Tensor], Tensor] | None = None,
        logits: str | int | Callable | None = None, outputs: str = "auto",
    ):  # fmt: skip
        """Give the pictures to explain, in any Lightning project; returns the callback itself.

        What is explained is the module's ``forward(images)``; layers bear their names in the
        module. It is compared once with what the module's own steps make of a batch: where they
        differ, a line says so, nothing is explained and training goes on.

        Args:
            images: (N, C, H, W), C 1 or 3, in [0, 1], which is what is drawn.
            labels: (N,) true classes; None where they are not known.
            class_names: K names; numbers without them.
            names: N short names for tags and files.
            folder: where the pictures are written as files too; None for loggers only.
            seed: of what is random in explanations.
            preprocess: from ``images`` to what ``forward`` takes, such as a normalisation.
            logits: where the logits are in what ``forward`` returns, if it is not one tensor: a
                key or attribute (``"logits"``), a place in a tuple, or a function of the output.
            outputs: ``auto`` reads logits, and those before a final Softmax, LogSoftmax or Sigmoid
                module; ``probabilities`` says that the outputs are probabilities made in another
                way, ``logits`` that they are not. See
                :class:`convlens.explain.outputs.OutputReader`.

        Raises:
            UserError: another value of ``outputs``.
            ValueError: shapes that do not fit.
        """
        count = len(images)
        if images.dim() != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f"images are (N, 1 or 3, H, W), not {tuple(images.shape)}")
        labels = torch.full((count,), -1) if labels is None else labels.detach().cpu().long()
        names = [f"{i:02d}" for i in range(count)] if names is None else list(names)
        if len(labels) != count or len(names) != count:
            raise ValueError(f"{count} images, {len(labels)} labels, {len(names)} names")
        probes = Probes(images.detach().cpu().float(), labels, names, names)
        self.attach(probes, tuple(class_names), None if folder is None else Path(folder), seed)
        if outputs not in OUTPUTS:
            raise UserError(f"outputs={outputs}: {nearest(str(outputs), OUTPUTS)}")
        self.preprocess, self.logits, self.outputs = preprocess, logits, outputs
        return self

    # --- what

    @abstractmethod
    def pictures(self, look: Look) -> Findings:
        """What to draw: tags and pictures (H, W, 3) uint8. Subclasses say."""

    def select_layers(self, network: nn.Module, example: Tensor) -> list[str]:
        """The layers looked at; called before training too, so that a wrong name is told early.

        Raises:
            UserError: a pattern that matches no layer.
        """
        return []

    def layers_at(self, look: Look) -> list[str]:
        """What ``select_layers`` gives, which takes a pass of the network."""
        return list(self.found_once(look, self.select_layers))

    def found_once(self, look: Look, find: Callable[[nn.Module, Tensor], T]) -> T:
        """``find(network, example)``, looked for once in each network."""
        if self._network is not look.network:
            self._network, self._found = look.network, {}
        if find not in self._found:
            self._found[find] = find(look.network, look.example)
        return self._found[find]

    def in_turn(self, items: list[T]) -> list[T]:
        """All of them, those first that the budget kept from the look before."""
        start = self._turn % len(items)
        return items[start:] + items[:start]

    def plan(self, layers: list[str], probes: int) -> dict[str, int]:
        """Tags (with ``<probe>`` for each probe) and the number of pictures at a full look."""
        return {}

    def fitting(self, compute: Callable[[int], T]) -> T:
        """``compute(batch)`` with the batch halved as often as memory asks for.

        Raises:
            RuntimeError: memory does not suffice for a single picture.
        """
        while True:
            try:
                return compute(self.batch)
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error) or self.batch == 1:
                    raise
            # outside the except block, so that the failed pass's tensors are let go
            self.batch //= 2
            self.say("memory", f"{self.name}: memory ran out, going on with smaller batches")
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def say(self, key: str, line: str, *, traceback: bool = False) -> None:
        """One line, once; later ones only to the log file. ``short``: the budget ends the look."""
        level = logging.DEBUG if key in self._said else logging.WARNING
        self._said.add(key)
        log.log(level, line)
        if key == "short":
            self.cut = line
        if traceback:
            log.debug("traceback", exc_info=True)

    # --- how the network is asked

    @contextmanager
    def asking(
        self, network: nn.Module, *, outputs: str, fed: bool
    ) -> Iterator[Callable[[], AbstractContextManager]]:
        """The network takes the images to explain, and gives logits, while this lasts.

        Args:
            outputs: as in :meth:`watch`.
            fed: whether the images of batches are preprocessed already.

        Yields:
            What makes a context in which it takes the images of batches.
        """
        resting: list[bool] = []

        @contextmanager
        def as_fed() -> Iterator[None]:
            resting.append(True)
            try:
                yield
            finally:
                resting.pop()

        with ExitStack() as asked:
            if self.logits is not None:
                asked.enter_context(picking(network, self.logits))
            if self.preprocess is not None:
                asked.enter_context(
                    preprocessing(network, lambda x: x if resting else self.preprocess(x))
                )
            asked.enter_context(answering(network, outputs, len(self.class_names) or None))
            yield as_fed if fed else nullcontext

    def check_outputs(self, network: nn.Module, images: Tensor) -> None:
        """What the outputs are is found out once, and said; classes without names get numbers.

        Raises:
            UserError: they cannot be read, or are not those of the classes.
        """
        if self._read is network:
            return
        self.readable = False
        with explaining(network):
            logits, note = check_outputs(network, ready(network, images[:2]))
        self.readable, self._read = True, network
        if note:
            self.say("outputs", f"{self.name}: {note}")
        if not self.class_names:
            self.class_names = tuple(f"class {n}" for n in range(max(2, logits.shape[1])))


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return "out of memory" in text or "allocate memory" in text or "not enough memory" in text
