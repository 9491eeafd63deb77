"""What every explanation callback has in common: when, at what, at what cost, and do no harm.

A subclass says only what to draw: ``pictures(look)`` yields ``(tag, picture)`` or ``(tag, number)``
one by one, the most telling first, and stops early when ``look.left`` falls below zero.
"""

from __future__ import annotations

import gc
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytorch_lightning as L
import torch
from convlens.callbacks.answers import AnswerBook, Answers
from convlens.callbacks.explained import OwnAnswers, Where, network_of
from convlens.callbacks.ledger import Ledger
from convlens.callbacks.logging.writing import write_number, write_picture
from convlens.callbacks.surroundings import surroundings
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn

from convlens.core.errors import UserError, nearest
from convlens.core.stopwatch import spent_on
from convlens.data.probes import Probes
from convlens.explain.outputs import OUTPUTS, answering, check_outputs
from convlens.explain.taps import explaining, picking, preprocessing, ready
from convlens.training import ClassifierModule

log = logging.getLogger("convlens")
T = TypeVar("T")
STEPS = {"val": "validation", "test": "test"}
MARGIN = 0.05  # of the seconds left, kept back: the last picture may take longer than reckoned


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


class ExplanationCallback(L.Callback, ABC):
    """Looks at the network before training, after every epoch and at the end.

    Looking changes nothing: training modes, gradients and random state are as before. Only the
    first process looks. A look that fails, or for which memory does not suffice even picture by
    picture, is written down once, with its traceback in the log, and training goes on.

    Args:
        every_n_epochs: looks between the first and the last epoch; the budget may thin them out
            further, see :class:`convlens.callbacks.ledger.Ledger`.
        batch: pictures of a pass at most; halved when memory runs out.

    Attributes:
        needs_answers: whether the answers to validation and test pictures are collected for it.
        looks_at_test: whether it looks again behind the test.
        reckons: whether it reckons itself what its next picture will take; of others that is the
            dearest of the look before.

    In a project of one's own::

        images, labels = next(iter(val_loader))
        cam = GradCam().watch(images[:8], labels[:8], class_names=["cat", "dog"])
        trainer = L.Trainer(callbacks=[cam])
    """

    needs_answers = False
    looks_at_test = False
    reckons = False

    def __init__(self, *, every_n_epochs: int = 1, batch: int = 32):
        self.every_n_epochs, self.batch = every_n_epochs, batch
        self.preprocess: Callable[[Tensor], Tensor] | None = None
        self.logits: Where = None
        self.outputs = "auto"
        self.probes: Probes | None = None
        self.class_names: tuple[str, ...] = ()
        self.folder: Path | None = None
        self.seed = 0
        self._looked_at: int | None = None  # the clock of the latest look
        self._least = 0.0  # seconds until the latest look's first picture
        self._next = 0.0  # and of its dearest later one
        self._clock = 0
        self._cut_at: int | None = None  # the clock of the latest look that the budget ended
        self._said: set[str] = set()
        self._judged: object = None  # the step of the module's own that was judged last
        self._ledger: Ledger | None = None
        self._known: tuple[nn.Module, list[str]] | None = None  # the layers of a network
        self._read: nn.Module | None = None  # the network whose outputs have been looked at
        self._unreadable = False  # whether they are no logits, and cannot be taken for any

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

    @abstractmethod
    def pictures(self, look: Look) -> Iterator[tuple[str, np.ndarray]]:
        """What to draw: tags and pictures (H, W, 3) uint8. Subclasses say."""

    def chosen(self, network: nn.Module, example: Tensor) -> list[str]:
        """The layers looked at; called before training too, so that a wrong name is told early.

        Raises:
            UserError: a pattern that matches no layer.
        """
        return []

    def layers_at(self, look: Look) -> list[str]:
        """:meth:`chosen`, which takes a pass of the network, once for each network."""
        if self._known is None or self._known[0] is not look.network:
            self._known = (look.network, self.chosen(look.network, look.example))
        return list(self._known[1])

    def plan(self, layers: list[str], probes: int) -> dict[str, int]:
        """Tags (with ``<probe>`` for each probe) and the number of pictures at a full look."""
        return {}

    @property
    def name(self) -> str:
        return type(self).__name__

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._clock = trainer.current_epoch
        if self._clock == 0 and trainer.global_step == 0:
            self._look(trainer, pl_module, 0, free=True)
        else:
            ledger = Ledger.of(trainer)
            self._looked_at = ledger.looked.get(self.name, self._clock)
            self._cut_at = ledger.cut.get(self.name)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        Ledger.of(trainer).begin_epoch(trainer.current_epoch)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        ledger = Ledger.of(trainer)
        ledger.end_epoch(trainer.current_epoch)
        self._clock = trainer.current_epoch + 1
        worth = not isinstance(pl_module, ClassifierModule) or pl_module.worth_looking(self._clock)
        if self._clock % self.every_n_epochs or not worth:
            return
        if self._least > max(ledger.left, 0.0):
            self._say(
                "budget",
                f"{self.name} looks every few epochs: it takes {self._least:.1f} s at least, "
                f"{max(ledger.left, 0):.1f} s of the budget are left; looking.seconds allows more",
            )
            return
        self._look(trainer, pl_module, self._clock)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # the last look is always there, and whole
        if self._looked_at != self._clock or self._cut_at == self._clock or self.has_final_look:
            self._look(trainer, pl_module, self._clock, final=True, free=True)

    # --- the module's own steps: is what they answer what forward answers? and what is it?

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        OwnAnswers.of(trainer).watch(pl_module, training=True)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self._judge(trainer, pl_module, outputs, batch)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._begin_pass(trainer, pl_module)

    def on_validation_batch_start(
        self, trainer, pl_module, batch, batch_idx, dataloader_idx=0
    ) -> None:
        if dataloader_idx == 0:
            OwnAnswers.of(trainer).watch(pl_module, training=False)

    def on_validation_batch_end(
        self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0
    ) -> None:
        if dataloader_idx == 0:
            self._judge(trainer, pl_module, outputs, batch)
            if not trainer.sanity_checking:
                self._take(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._end_pass(trainer, "val")

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._begin_pass(trainer, pl_module)

    def on_test_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        if dataloader_idx == 0:
            OwnAnswers.of(trainer).watch(pl_module, training=False)

    def on_test_batch_end(
        self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0
    ) -> None:
        if dataloader_idx == 0:
            self._judge(trainer, pl_module, outputs, batch)
            self._take(trainer, pl_module, outputs, batch, batch_idx)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._end_pass(trainer, "test")

    def _begin_pass(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self.needs_answers and not self._unreadable:
            AnswerBook.of(trainer).begin(hold=not isinstance(module, ClassifierModule))
            OwnAnswers.of(trainer).note(module, self.logits, self.preprocess, self.outputs)

    def _take(self, trainer, module: L.LightningModule, outputs, batch, number: int) -> None:
        if self.needs_answers and not self._unreadable:
            own = OwnAnswers.of(trainer)
            AnswerBook.of(trainer).take(outputs, batch, number, lambda: own.taken(trainer, module))

    def _end_pass(self, trainer: L.Trainer, stage: str) -> None:
        if self.needs_answers and not self._unreadable:
            OwnAnswers.of(trainer).end()
            book = AnswerBook.of(trainer)
            if not book.end(stage):
                why = f" ({book.problem})" if book.problem else ""
                self._say(
                    "answers",
                    f"{self.name}: the step's logits or the batch's labels are not known{why}, "
                    f"so no answers are shown; return {{'logits': …}} from "
                    f"{STEPS[stage]}_step",
                )

    def _judge(self, trainer: L.Trainer, module: L.LightningModule, outputs, batch) -> None:
        """Whether what would be explained is what answers; said once where it is not."""
        own = OwnAnswers.of(trainer)
        own.end_step(trainer, module)
        if own.seen is self._judged or self.probes is None:
            return
        self._judged, began = own.seen, time.perf_counter()
        try:
            with spent_on("explaining"), isolate_rng():
                verdict = own.judge(
                    module, outputs, batch, self.logits, self.preprocess, self.probes.images[:1]
                )
            if not trainer.is_global_zero:
                return
            if verdict.refusal:
                raise UserError(verdict.refusal)
            if verdict.warning:
                self._say("own answer", f"{self.name}: {verdict.warning}")
        except Exception as error:  # whatever is wrong with a network must not end the training
            self._fail(Ledger.of(trainer), error)
        Ledger.of(trainer).charge(self.name, time.perf_counter() - began, free=True)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.looks_at_test:
            clock = getattr(trainer, "convlens_tested", self._clock)
            self._look(trainer, pl_module, clock, final=True, free=True, stage="test")

    @property
    def has_final_look(self) -> bool:
        """Whether the end of the run shows more than the end of an epoch."""
        return False

    def _look(
        self, trainer: L.Trainer, module: L.LightningModule, clock: int,
        *, final: bool = False, free: bool = False, stage: str = "val",
    ) -> None:  # fmt: skip
        if trainer.is_global_zero and self.probes is not None:
            with spent_on("explaining"):
                self._look_now(trainer, module, clock, final, free, stage)

    def _look_now(
        self, trainer: L.Trainer, module: L.LightningModule, clock: int, final: bool, free: bool,
        stage: str,
    ) -> None:  # fmt: skip
        ledger = self._ledger = Ledger.of(trainer)
        began = time.perf_counter()
        modes = {part: part.training for part in module.modules()}
        try:
            network = network_of(trainer, module)
            probes = _moved(self.probes, module.device)
            verdict = OwnAnswers.of(trainer).verdict(module, self.logits, self.preprocess, probes)
            if verdict.refusal:
                raise UserError(verdict.refusal)
            with isolate_rng(), ExitStack() as asked:
                fed = self._feed(asked, network, fed=verdict.fed)
                outputs = "logits" if isinstance(module, ClassifierModule) else self.outputs
                classes = len(self.class_names) or None
                asked.enter_context(answering(network, outputs, classes))
                self._check_outputs(network, probes.images)
                # in the epochs another picture is only begun where there is time for it
                reserve = 0.0 if free or self.reckons else self._next
                deadline = began + self._seconds(trainer, final, free) - reserve
                look = Look(
                    network, probes, self.class_names, clock, final, deadline, self.seed, stage,
                    **surroundings(trainer, module, stage, clock, self.needs_answers), fed=fed,
                )  # fmt: skip
                times = [time.perf_counter()]
                for tag, found in self.pictures(look):
                    if isinstance(found, np.ndarray):
                        write_picture(trainer, self.folder, tag, found, clock)
                    else:
                        write_number(trainer, tag, float(found), clock)
                        ledger.note(clock, tag, float(found))
                    times.append(time.perf_counter())
                if not final and len(times) > 1:
                    self._least = times[1] - began
                    later = pairwise(times[1:])
                    self._next = max((end - start for start, end in later), default=0.0)
        except Exception as error:  # whatever goes wrong in a look must not end the training
            self._fail(ledger, error, clock)
        finally:
            for part, mode in modes.items():
                part.training = mode
            if stage == "val":
                self._looked_at = ledger.looked[self.name] = clock
            ledger.charge(self.name, time.perf_counter() - began, free=free)

    def _check_outputs(self, network: nn.Module, images: Tensor) -> None:
        """What the outputs are is found out once, and said; classes without names get numbers.

        Raises:
            UserError: they cannot be read, or are not those of the classes.
        """
        if self._read is network:
            return
        self._unreadable = True
        with explaining(network):
            logits, note = check_outputs(network, ready(network, images[:2]))
        self._unreadable, self._read = False, network
        if note:
            self._say("outputs", f"{self.name}: {note}")
        if not self.class_names:
            self.class_names = tuple(f"class {n}" for n in range(max(2, logits.shape[1])))

    def _feed(
        self, asked: ExitStack, network: nn.Module, *, fed: bool
    ) -> Callable[[], AbstractContextManager]:
        """The network takes the images to explain and gives logits while ``asked`` lasts.

        Returns:
            A context in which it takes the images of batches; ``fed``: they are preprocessed.
        """
        if self.logits is not None:
            asked.enter_context(picking(network, self.logits))
        if self.preprocess is None:
            return nullcontext
        resting: list[bool] = []
        asked.enter_context(
            preprocessing(network, lambda images: images if resting else self.preprocess(images))
        )

        @contextmanager
        def as_fed() -> Iterator[None]:
            resting.append(True)
            try:
                yield
            finally:
                resting.pop()

        return as_fed if fed else nullcontext

    def _fail(self, ledger: Ledger, error: Exception, clock: int | None = None) -> None:
        """Write a failure down once; training goes on."""
        when = "" if clock is None else f" at epoch {clock}"
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        line = f"{self.name} failed{when}: {kind}{error}".splitlines()[0]
        ledger.failures.setdefault(self.name, line[:300])
        self._say("failure", f"{line}; training goes on", traceback=True)

    def _seconds(self, trainer: L.Trainer, final: bool, free: bool) -> float:
        """For this look: of the first and the last their own; of others what the budget has left,
        shared with the callbacks that come after."""
        if free:
            return Ledger.of(trainer).at_end if final else Ledger.of(trainer).at_start
        waiting = [c for c in trainer.callbacks if isinstance(c, ExplanationCallback)]
        left = (1 - MARGIN) * Ledger.of(trainer).left
        return left / max(len(waiting[waiting.index(self) :]), 1)

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
            self._say("memory", f"{self.name}: memory ran out, going on with smaller batches")
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _say(self, key: str, line: str, *, traceback: bool = False) -> None:
        """One line, once; later ones only to the log file."""
        level = logging.DEBUG if key in self._said else logging.WARNING
        self._said.add(key)
        log.log(level, line)
        if key == "short":
            self._cut_at = self._clock
            if self._ledger is not None:
                self._ledger.cut[self.name] = self._clock
        if self._ledger is not None and key in ("short", "budget"):
            self._ledger.left_out.setdefault(self.name, line)
        if traceback:
            log.debug("traceback", exc_info=True)


def _moved(probes: Probes, device: torch.device) -> Probes:
    return replace(probes, images=probes.images.to(device))


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return "out of memory" in text or "allocate memory" in text or "not enough memory" in text
