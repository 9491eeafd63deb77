"""Which network is explained: what the module's ``forward`` computes, held against its own answers.

convlens's own module answers with ``model``, and that is explained, so that layers keep their
names. Of any other module it is the module itself, with whatever its ``forward`` does before and
after the network inside.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytorch_lightning as L
import torch
from convlens.callbacks.answers import parts_of, returned_logits
from convlens.callbacks.explanation import Explanation
from convlens.callbacks.verdict import (
    Judge,
    Preprocess,
    Step,
    Verdict,
    Where,
    check_forward,
    of_ours,
)
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn

from convlens.core.errors import UserError
from convlens.data.probes import Probes
from convlens.explain.outputs import OutputReader, pick_logits
from convlens.training import ClassifierModule

_SPLIT_UP = (FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy)


def network_of(trainer: L.Trainer, module: L.LightningModule) -> nn.Module:
    """The module whose ``forward`` is explained; never a wrapper that waits for other processes.

    Raises:
        UserError: it cannot be asked: its weights lie in pieces over the processes.
    """
    strategy = getattr(trainer, "strategy", None)
    if isinstance(strategy, _SPLIT_UP):
        raise UserError(
            f"under {type(strategy).__name__} the weights are split over the processes, and "
            f"no single one can run the network: explain a checkpoint with convlens.wrap"
        )
    if isinstance(module, ClassifierModule):
        return module.model
    check_forward(module)
    return module


class OwnAnswers:
    """Watches one step of a module, judges by it, and notes the answers of later ones.

    Shared by all explanations. A step of validation (Lightning's sanity check comes
    before training) tells most: there the answers themselves are compared. A training step, where
    there is no validation, only tells what was called.
    """

    def __init__(self):
        self.seen: Step | None = None
        self._step: Step | None = None
        self._watching = ExitStack()
        self._verdicts: dict[tuple, Verdict] = {}
        self._hooks = ExitStack()
        self._noted: list[Tensor | UserError] = []
        self._noting: nn.Module | None = None
        self._asking: Explanation | None = None  # how the noted ones are read
        self._reader: OutputReader | None = None

    # --- watching a step

    def watch(self, module: L.LightningModule, *, training: bool) -> None:
        """A step begins; watched if it can tell what no step before it could."""
        known = self.seen is not None and (training or not self.seen.training)
        if self._step is not None or known or isinstance(module, ClassifierModule):
            return
        parts = list(_watchable(module))
        if not parts:
            return  # compiled as a whole
        step = self._step = Step(training)

        def note(which: nn.Module, given, output) -> None:
            step.called.add(which)
            step.narrow |= torch.is_autocast_enabled(module.device.type)
            if which is module:
                step.forward.append((given[0] if given else None, output))
            elif isinstance(output, Tensor) and 1 <= output.dim() <= 2:
                step.outputs.setdefault(which, output.detach())

        for part in parts:
            self._watching.callback(part.register_forward_hook(note).remove)

    def end_step(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """The step is over; later calls for the same step change nothing."""
        if self._step is None:
            return
        self._watching.close()
        self.seen, self._step, self._verdicts = self._step, None, {}
        if _wrapped(trainer, module):
            self.seen.forward = self.seen.forward[:-1]  # the step itself came as a call

    def judge(self, module: L.LightningModule, outputs, batch, explanation: Explanation) -> Verdict:
        """What the step just seen tells, for explanations that read the outputs like this one.

        Args:
            outputs, batch: of the step.
        """
        key = _way(explanation)
        if key not in self._verdicts:
            judge = Judge(
                self.seen, module, returned_logits(outputs), parts_of(batch)[0], *key,
                explanation.probes.images[:1],
            )  # fmt: skip
            noted, self._noted = self._noted, []  # judging asks the module too
            found = self._verdicts[key] = judge.verdict()
            self._noted = noted
            moved = self._noting is not None and found.source not in (None, self._noting)
            if moved and key == _way(self._asking):
                self.end()
                self.note(module, self._asking)
                given = self.seen.outputs[found.source]
                self._noted = [self._reader.logits(given, len(given))]
        return self._verdicts[key]

    def verdict(
        self, module: L.LightningModule, explanation: Explanation, probes: Probes
    ) -> Verdict:
        """What is known so far; convlens's own module is compared at the first call."""
        key = _way(explanation)
        if isinstance(module, ClassifierModule) and key not in self._verdicts:
            self._verdicts[key] = of_ours(module, probes.images[:1])
        return self._verdicts.get(key, Verdict())

    # --- noting answers

    def note(self, module: L.LightningModule, explanation: Explanation) -> None:
        """A pass begins whose answers are wanted, read as ``explanation`` does."""
        if self._noting is not None or isinstance(module, ClassifierModule):
            return  # the steps of ours return their logits
        logits, _ = key = _way(explanation)
        source = self._verdicts.get(key, Verdict()).source or module
        self._noting, self._noted, self._asking = source, [], explanation
        reader = self._reader = self._hooks.enter_context(OutputReader(source, explanation.outputs))

        def read(_, given, output) -> None:
            try:
                picked = pick_logits(output, logits if source is module else None, module).detach()
                images = given[0] if given and isinstance(given[0], Tensor) else picked
                self._noted.append(reader.logits(picked, len(images)))
            except Exception as error:  # it is raised where the answer is wanted
                told = isinstance(error, UserError)
                self._noted.append(error if told else UserError(f"{type(error).__name__}: {error}"))

        self._hooks.callback(source.register_forward_hook(read).remove)

    def taken(self, trainer: L.Trainer, module: L.LightningModule) -> Tensor:
        """The logits of the batch that just ended.

        Raises:
            UserError: it is not known which they were, or what.
        """
        noted, self._noted = self._noted, []
        if self._noting is module and _wrapped(trainer, module):
            noted = noted[:-1]
        if len(noted) != 1:
            raise UserError(f"the step called the network {len(noted)} times, not once")
        if isinstance(noted[0], UserError):
            raise noted[0]
        return noted[0]

    def end(self) -> None:
        """The pass is over."""
        self._hooks.close()
        self._noting, self._noted = None, []


def _way(explanation: Explanation) -> tuple[Where, Preprocess]:
    return explanation.logits, explanation.preprocess


def _wrapped(trainer: L.Trainer, module: L.LightningModule) -> bool:
    """Whether Lightning sends steps through ``forward``, as it does under DDP."""
    strategy = getattr(trainer, "strategy", None)
    return strategy is not None and strategy.model is not None and strategy.model is not module


def _watchable(module: nn.Module) -> Iterator[nn.Module]:
    """The module and those within, without compiled ones: a hook would be compiled into them."""
    if getattr(module, "_compiled_call_impl", None) or getattr(module, "_compiler_ctx", None):
        return
    yield module
    if not isinstance(module, torch._dynamo.OptimizedModule):
        for child in module.children():
            yield from _watchable(child)
