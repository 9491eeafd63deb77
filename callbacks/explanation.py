"""The base class of all explanations: which images, how the network is called, what is drawn.

It knows nothing of a trainer; ``convlens.callbacks.looks.Looks`` decides when it looks.
"""

from __future__ import annotations

import gc
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Self, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import pytorch_lightning as L
import torch
from convlens.callbacks.logging.table import Table
from convlens.callbacks.look import Look, Portion
from convlens.callbacks.pace import Pace
from torch import Tensor, nn

from convlens.core.errors import UserError, nearest
from convlens.core.memory import is_out_of_memory
from convlens.data.probes import Probes
from convlens.explain.mode import add_preprocessing, explaining, prepare_images
from convlens.explain.outputs import OUTPUTS, add_logits_picker, answering, check_outputs
from convlens.rundir.maps import Maps

log = logging.getLogger("convlens")
T = TypeVar("T")
# tags, each with a picture, a number or a table; maps have their method in place of a tag
Findings = Iterator[tuple[str, np.ndarray | float | Maps | Table]]
LogitsLocation = str | int | Callable | None
Preprocess = Callable[[Tensor], Tensor] | None
# by network and settings: number of outputs, and how they are read
_OUTPUTS: WeakKeyDictionary[nn.Module, dict[tuple, tuple[int, str | None]]] = WeakKeyDictionary()


class Explanation(L.Callback, ABC):
    """One kind of pictures of the network.

    A subclass only says what to draw: ``pictures(look)`` yields ``(tag, picture)`` or
    ``(tag, number)`` one by one, the most informative first. It works in pieces of ``look.pieces``,
    which end when time is up, or asks ``look.affords`` before it begins.

    Args:
        every_n_epochs: look after every n-th epoch, and before training and at the end in any case.
            The time (see ``convlens.callbacks.Ledger``) may not suffice for every look.
        batch: maximum number of images in a pass; halved when memory runs out.

    Attributes:
        needs_predictions: whether it uses the predictions on validation and test images.
        looks_at_test: whether it looks again after the test.
        has_final_look: whether the end of the run shows more than the end of an epoch.
        for_some_networks: whether a convlens run leaves it out, without a warning, if
            ``find_obstacle`` has a reason.
        cut: what the budget left out of the current look, in one line; empty if nothing.
        photographs: whether its pictures show photographs, alone or under smooth maps, and few thin
            lines in colour: see ``convlens.draw.jpeg.encode_jpeg``.
        outputs_readable: False once the network's outputs turn out not to be logits.
    """

    needs_predictions = looks_at_test = has_final_look = photographs = False
    for_some_networks = False

    def __init__(self, *, every_n_epochs: int = 1, batch: int = 32):
        self.every_n_epochs, self.batch = every_n_epochs, batch
        self.preprocess: Preprocess = None
        self.logits: LogitsLocation = None
        self.outputs = "auto"
        self.probes: Probes | None = None
        self.class_names: tuple[str, ...] = ()
        self.folder: Path | None = None
        self.seed = 0
        self.cut = ""
        self.outputs_readable = True
        self._logged: set[str] = set()
        self._turn = 0  # where the next look starts, if the budget ended the previous one
        self._network: nn.Module | None = None  # the network of the latest look
        self._cache: dict[Callable, Any] = {}  # results that hold for ``_network``
        self._checked: nn.Module | None = None  # the network whose outputs were checked

    @property
    def name(self) -> str:
        """The name used in log lines and in the summary."""
        return type(self).__name__

    @property
    def config_key(self) -> str:
        """The key of this callback in ``configs/callbacks/default.yaml``."""
        return f"callbacks.{self._snake}"

    @property
    def kind(self) -> str:
        """What it shows, in plain words."""
        return self._snake.replace("_", " ")

    @property
    def _snake(self) -> str:
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(self).__name__).lower()

    # --- which images

    def attach(
        self, probes: Probes, class_names: tuple[str, ...], folder: Path | None, seed: int
    ) -> None:
        """Set the run's probes, class names, folder for files (or None), and seed."""
        self.probes, self.class_names = probes, tuple(class_names)
        self.folder, self.seed = folder, seed

    def watch(
        self, images: Tensor, labels: Tensor | None = None, class_names: Sequence[str] = (), *,
        names: Sequence[str] | None = None, folder: str | Path | None = None, seed: int = 0,
        preprocess: Preprocess = None, logits: LogitsLocation = None, outputs: str = "auto",
    ) -> Self:  # fmt: skip
        """Set the images to explain, in any Lightning project, and return the callback itself.

        It explains the module's ``forward(images)``; layers have the names they have in the module.
        ``forward`` is compared once with what the module's own steps compute: if they differ, a
        line says so, nothing is explained, and training continues.

        Args:
            images: (N, C, H, W) with C 1 or 3, in [0, 1]; they are drawn as they are.
            labels: (N,) true classes; None if unknown.
            class_names: K names; if empty, classes are numbered.
            names: N short names for tags and files.
            folder: where the pictures are also written as files; None for loggers only.
            seed: seed of everything random in explanations.
            preprocess: turns ``images`` into what ``forward`` takes, such as a normalisation.
            logits: where the logits are in the output of ``forward`` if it is not one tensor: a
                key or attribute (``"logits"``), an index into a tuple, or a function of the output.
            outputs: ``auto`` reads logits, also in front of a final Softmax, LogSoftmax or Sigmoid
                module; ``probabilities`` says that the outputs are probabilities made in another
                way, ``logits`` that they are logits. See ``convlens.explain.outputs.OutputReader``.

        Raises:
            UserError: ``outputs`` has another value.
            ValueError: shapes do not match.
        """
        count = len(images)
        if images.dim() != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f"images must be (N, 1 or 3, H, W), not {tuple(images.shape)}")
        labels = torch.full((count,), -1) if labels is None else labels.detach().cpu().long()
        names = [f"{i:02d}" for i in range(count)] if names is None else list(names)
        if len(labels) != count or len(names) != count:
            counts = f"{count} images, {len(labels)} labels and {len(names)} names"
            raise ValueError(f"{counts}: give one label and one name for each image")
        probes = Probes(images.detach().cpu().float(), labels, names, names)
        self.attach(probes, tuple(class_names), None if folder is None else Path(folder), seed)
        if outputs not in OUTPUTS:
            raise UserError(f"outputs={outputs}: {nearest(str(outputs), OUTPUTS)}")
        self.preprocess, self.logits, self.outputs = preprocess, logits, outputs
        return self

    # --- what is drawn

    @abstractmethod
    def pictures(self, look: Look) -> Findings:
        """Yield tags with pictures (H, W, 3) uint8, numbers or tables; maps with their method."""

    def select_layers(self, network: nn.Module, example: Tensor) -> list[str]:
        """Return the layers to explain; also called before training, to report wrong names early.

        Args:
            network: the network to explain.
            example: one image, (1, C, H, W).

        Raises:
            UserError: a pattern matches no layer.
        """
        return []

    def find_obstacle(self, network: nn.Module, example: Tensor) -> str:
        """Return why nothing of a network can be shown, in one line; empty if something can.

        Args:
            network: the network to explain.
            example: one image, (1, C, H, W).
        """
        return ""

    def layers_of(self, look: Look) -> list[str]:
        """Return ``select_layers`` of the look's network, which is run only once for it."""
        return list(self.find_once(look.network, look.example, self.select_layers))

    def find_once(
        self, network: nn.Module, example: Tensor, find: Callable[[nn.Module, Tensor], T]
    ) -> T:
        """Return ``find(network, example)``, computed once for each network."""
        if self._network is not network:
            self._network, self._cache = network, {}
        if find not in self._cache:
            self._cache[find] = find(network, example)
        return self._cache[find]

    def rotate(self, items: list[T]) -> list[T]:
        """Return all items, starting with those that the budget left out of the previous look."""
        start = self._turn % len(items)
        return items[start:] + items[:start]

    def reserve(self, pace: Pace) -> float:
        """Return the seconds of the last look that those before it leave to this explanation.

        Args:
            pace: what pieces of explanations take.
        """
        return 0.0

    def plan(self, layers: list[str], probes: int) -> dict[str, int]:
        """Return tags (with ``<probe>`` for each probe) and their number of pictures in a look."""
        return {}

    def portion(self, look: Look) -> Portion | None:
        """Return what a look works through; None if that takes next to no time."""
        return None

    def fit_batch(self, compute: Callable[[int], T]) -> T:
        """Return ``compute(batch)``, halving the batch until memory suffices.

        Raises:
            RuntimeError: memory does not suffice for a single image.
        """
        while True:
            try:
                return compute(self.batch)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or self.batch == 1:
                    raise
            # outside the except block, so that the tensors of the failed pass are freed
            self.batch //= 2
            line = f"{self.name}: out of memory, continuing with batches of {self.batch} images"
            self.log_once("memory", line)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def log_once(
        self, key: str, line: str, *, error: Exception | None = None, quiet: bool = False
    ) -> None:
        """Log a warning; later ones with the same key go to the log file only.

        Args:
            key: what the line is about.
            line: the line.
            error: an exception whose traceback the log file gets, too.
            quiet: whether all of them go to the log file only.
        """
        level = logging.DEBUG if quiet or key in self._logged else logging.WARNING
        self._logged.add(key)
        log.log(level, line)
        if error is not None:
            log.debug("traceback", exc_info=error)

    def draw(
        self, look: Look, tag: str, make: Callable[[], np.ndarray], seconds: float = 0.1
    ) -> Findings:
        """Yield one picture if there is time to draw and write it, and report it if not.

        Args:
            look: the current look.
            tag: tag of the picture.
            make: draws it.
            seconds: what drawing takes about, until it was measured.
        """
        drawn = False
        for _ in look.pieces(("drawing", tag), 1, batch=1, passes=0.0, seconds=seconds):
            yield tag, make()
            drawn = True
        if not drawn:
            self.report_cut(look, f"before {tag}")

    def report_cut(self, look: Look, where: str) -> None:
        """Report that the budget ends this look ``where``, such as "after layer conv1"."""
        when = "at the end" if look.final else f"at epoch {look.clock}"
        if look.stage == "test":
            when = "after the test"
        self.cut = f"{self.name}: out of time {when} {where}; raise {look.budget_key}"

    # --- how the network is called

    @contextmanager
    def adapt(
        self, network: nn.Module, *, outputs: str, preprocessed: bool
    ) -> Iterator[Callable[[], AbstractContextManager]]:
        """Make the network take the images to explain, and return logits, while this lasts.

        Args:
            network: the network to explain.
            outputs: as in ``watch``.
            preprocessed: whether the images of batches are preprocessed already.

        Yields:
            A function that makes a context in which the network takes the images of batches.
        """
        skipping: list[bool] = []

        @contextmanager
        def skip_preprocessing() -> Iterator[None]:
            skipping.append(True)
            try:
                yield
            finally:
                skipping.pop()

        with ExitStack() as hooks:
            if self.logits is not None:
                hooks.enter_context(add_logits_picker(network, self.logits))
            if (prepare := self.preprocess) is not None:
                adapt_images = lambda images: images if skipping else prepare(images)  # noqa: E731
                hooks.enter_context(add_preprocessing(network, adapt_images))
            hooks.enter_context(answering(network, outputs, len(self.class_names) or None))
            yield skip_preprocessing if preprocessed else nullcontext

    def check_outputs(self, network: nn.Module, images: Tensor) -> None:
        """Find out once what the outputs are, and report it; number classes that have no names.

        Explanations that call the network in the same way share the result.

        Args:
            network: the network to explain.
            images: (B, C, H, W), of which at most two are used.

        Raises:
            UserError: the outputs cannot be read, or do not match the classes.
        """
        if self._checked is network:
            return
        self.outputs_readable = False
        known = _OUTPUTS.setdefault(network, {})
        settings = (self.preprocess, self.logits, self.outputs, len(self.class_names))
        if settings not in known:
            with explaining(network):
                logits, note = check_outputs(network, prepare_images(network, images[:2]))
            known[settings] = logits.shape[1], note
        classes, note = known[settings]
        self.outputs_readable, self._checked = True, network
        if note:
            self.log_once("outputs", f"{self.name}: {note}")
        if not self.class_names:
            self.class_names = tuple(f"class {n}" for n in range(max(2, classes)))
