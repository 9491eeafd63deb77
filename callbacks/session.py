"""One look session: what all explanations share that look at the network at one moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

import pytorch_lightning as L
import torch
from convlens.callbacks.answers import Answers
from convlens.callbacks.explained import OwnAnswers, network_of
from convlens.callbacks.explanation import Explanation
from convlens.callbacks.look import Look
from convlens.callbacks.surroundings import surroundings
from pytorch_lightning.utilities.seed import isolate_rng

from convlens.core.errors import UserError
from convlens.core.evaluation import kept_modes
from convlens.data.probes import Probes
from convlens.training import ClassifierModule


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


class Session:
    """The network at one moment of a run: its probes, clock, answers and shared maps.

    Looking changes nothing: training modes, gradients and random state are as before.

    Args:
        trainer, module: whose network is looked at.
        own: what is known of the module's own answers.
        answers: of the latest pass over the stage's pictures.
        history: scalars by epoch.

    Attributes:
        clock: completed epochs.
        stage: ``val`` or ``test``.
        final: whether it is the run's last.
    """

    def __init__(
        self, trainer: L.Trainer, module: L.LightningModule, clock: int, *, stage: str = "val",
        final: bool = False, own: OwnAnswers, answers: Answers | None = None,
        history: Sequence[Mapping[str, float]] = (),
    ):  # fmt: skip
        self.clock, self.stage, self.final = clock, stage, final
        self._trainer, self._module, self._own = trainer, module, own
        self._answers, self._history = answers, history
        self._shared: list[_Shared] = []

    @contextmanager
    def look(self, explanation: Explanation, deadline: float) -> Iterator[Look]:
        """The network as ``explanation`` asks it, while the ``with`` lasts.

        Args:
            deadline: see :class:`Look`.

        Raises:
            UserError: it is not the network that answers, or its outputs cannot be read.
        """
        module = self._module
        with kept_modes(module):
            network, shared = network_of(self._trainer, module), self._shared_by(explanation)
            verdict = self._own.verdict(
                module, explanation.logits, explanation.preprocess, shared.probes
            )
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
                    deadline, explanation.seed, self.stage, history=self._history, fed=fed,
                    answers=self._answers if explanation.needs_answers else None,
                    memo=shared.memo, **self._surroundings,
                )  # fmt: skip

    @cached_property
    def _surroundings(self) -> dict[str, Callable | Mapping]:
        return surroundings(self._trainer.datamodule, self._module, self.stage, self._answers)

    def _shared_by(self, explanation: Explanation) -> _Shared:
        given = explanation.probes
        way = (explanation.preprocess, explanation.logits, explanation.outputs)
        for each in self._shared:
            if each.way == way and _alike(each.given, given):
                return each
        probes = replace(given, images=given.images.to(self._module.device))
        self._shared.append(_Shared(given, way, probes))
        return self._shared[-1]


def _alike(one: Probes, other: Probes) -> bool:
    if one is other:
        return True
    if (one.names, one.sources) != (other.names, other.sources) or one.masks is not other.masks:
        return False
    return torch.equal(one.labels, other.labels) and torch.equal(one.images, other.images)
