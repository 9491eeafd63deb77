"""Which network is explained, and whether it is the one that predicts in the module's own steps.

Of convlens's own module, ``model`` is explained, so that layers keep their names. Of any other
module, the module itself is explained, with everything that its ``forward`` does before and after
the network inside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytorch_lightning as L
import torch
from convlens.callbacks.explanation import Explanation, LogitsLocation, Preprocess
from convlens.callbacks.predictions import get_returned_logits, split_batch
from convlens.callbacks.verdict import Judge, StepRecord, Verdict, check_forward, judge_own_module
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn

from convlens.core.errors import UserError
from convlens.data.probes import Probes
from convlens.explain.outputs import OutputReader, pick_logits
from convlens.training import ClassifierModule

_SHARDED = (FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy)


def find_network(trainer: L.Trainer, module: L.LightningModule) -> nn.Module:
    """Return the module whose ``forward`` is explained, never a wrapper that waits for others.

    Raises:
        UserError: its weights are split over the processes, so none of them can run it.
    """
    strategy = getattr(trainer, "strategy", None)
    if isinstance(strategy, _SHARDED):
        raise UserError(
            f"under {type(strategy).__name__} the weights are split over the processes, so none "
            f"can run the network: explain a checkpoint with convlens.wrap"
        )
    if isinstance(module, ClassifierModule):
        return module.model
    check_forward(module)
    return module


class StepObserver:
    """Observes one step of a module, judges the module by it, and notes later predictions.

    All explanations share it. A validation step (Lightning's sanity check comes before training)
    allows the strictest check, because the predictions themselves are compared. Without
    validation, a training step only shows which modules were called.

    Attributes:
        seen: the record of the last observed step; None before the first.
    """

    def __init__(self) -> None:
        self.seen: StepRecord | None = None
        self._step: StepRecord | None = None  # the step under way
        self._watching = ExitStack()
        self._verdicts: dict[tuple[Any, Any], Verdict] = {}
        self._hooks = ExitStack()
        self._logits: list[Tensor | UserError] = []
        self._source: nn.Module | None = None  # the module whose predictions are noted
        self._explanation: Explanation | None = None  # which says how its outputs are read
        self._reader: OutputReader | None = None

    # --- observing a step

    def watch(self, module: L.LightningModule, *, training: bool) -> None:
        """Start observing a step, if it can show more than the steps before it."""
        known = self.seen is not None and (training or not self.seen.training)
        if self._step is not None or known or isinstance(module, ClassifierModule):
            return
        parts = list(_find_hookable(module))
        if not parts:
            return  # compiled as a whole
        step = self._step = StepRecord(training)

        def note(which: nn.Module, inputs: Any, output: Any) -> None:
            step.called.add(which)
            step.half_precision |= torch.is_autocast_enabled(module.device.type)
            if which is module:
                step.forward.append((inputs[0] if inputs else None, output))
            elif isinstance(output, Tensor) and 1 <= output.dim() <= 2:
                step.outputs.setdefault(which, output.detach())

        for part in parts:
            self._watching.callback(part.register_forward_hook(note).remove)

    def end_step(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Stop observing; later calls for the same step change nothing."""
        if self._step is None:
            return
        self._watching.close()
        step = self.seen = self._step
        self._step, self._verdicts = None, {}
        if _is_wrapped(trainer, module):
            step.forward = step.forward[:-1]  # the last call was the step itself

    def judge(
        self, module: L.LightningModule, outputs: Any, batch: Any, explanation: Explanation
    ) -> Verdict:
        """Return the verdict of the step just observed.

        Args:
            module: the module whose step it was.
            outputs: what the step returned.
            batch: the batch that the step received.
            explanation: decides how the outputs are read.
        """
        key = _make_key(explanation)
        if key not in self._verdicts:
            seen, source_before = self.seen, self._source
            assert seen is not None and explanation.probes is not None
            judge = Judge(
                seen, module, get_returned_logits(outputs), split_batch(batch)[0], *key,
                explanation.probes.images[:1],
            )  # fmt: skip
            logits, self._logits = self._logits, []  # judging calls the module too
            verdict = self._verdicts[key] = judge.decide()
            self._logits = logits
            source, current = verdict.source, self._explanation
            moved = source_before is not None and source is not source_before
            if moved and source is not None and current is not None and key == _make_key(current):
                self.end()
                self.note(module, current)
                inputs, reader = seen.outputs[source], self._reader
                assert reader is not None, "noting makes a reader"
                self._logits = [reader.read_logits(inputs, len(inputs))]
        return self._verdicts[key]

    def verdict(
        self, module: L.LightningModule, explanation: Explanation, probes: Probes
    ) -> Verdict:
        """Return what is known so far; convlens's own module is compared at the first call."""
        key = _make_key(explanation)
        if isinstance(module, ClassifierModule) and key not in self._verdicts:
            self._verdicts[key] = judge_own_module(module, probes.images[:1])
        return self._verdicts.get(key, Verdict())

    # --- noting predictions

    def note(self, module: L.LightningModule, explanation: Explanation) -> None:
        """Start a pass whose predictions are noted, read as ``explanation`` reads outputs."""
        if self._source is not None or isinstance(module, ClassifierModule):
            return  # its steps return their logits
        logits, _ = key = _make_key(explanation)
        source = self._verdicts.get(key, Verdict()).source or module
        self._source, self._logits, self._explanation = source, [], explanation
        reader = self._reader = self._hooks.enter_context(OutputReader(source, explanation.outputs))

        def read(_: nn.Module, inputs: Any, output: Any) -> None:
            try:
                picked = pick_logits(output, logits if source is module else None, module).detach()
                images = inputs[0] if inputs and isinstance(inputs[0], Tensor) else picked
                self._logits.append(reader.read_logits(picked, len(images)))
            except UserError as error:  # ``take`` raises it
                self._logits.append(error)
            except Exception as error:
                self._logits.append(UserError(f"{type(error).__name__}: {error}"))

        self._hooks.callback(source.register_forward_hook(read).remove)

    def take(self, trainer: L.Trainer, module: L.LightningModule) -> Tensor:
        """Return the logits of the batch that just ended.

        Raises:
            UserError: it is not known which output they are, or how to read it.
        """
        logits, self._logits = self._logits, []
        if self._source is module and _is_wrapped(trainer, module):
            logits = logits[:-1]
        if len(logits) != 1:
            raise UserError(f"the step called the network {len(logits)} times, not once")
        if isinstance(logits[0], UserError):
            raise logits[0]
        return logits[0]

    def end(self) -> None:
        """Finish the pass."""
        self._hooks.close()
        self._source, self._logits = None, []


def _make_key(explanation: Explanation) -> tuple[LogitsLocation, Preprocess]:
    return explanation.logits, explanation.preprocess


def _is_wrapped(trainer: L.Trainer, module: L.LightningModule) -> bool:
    """Return whether Lightning calls steps through ``forward``, as it does under DDP."""
    strategy = getattr(trainer, "strategy", None)
    return strategy is not None and strategy.model is not None and strategy.model is not module


def _find_hookable(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the module and its parts, but no compiled ones: hooks would be compiled into them."""
    if getattr(module, "_compiled_call_impl", None) or getattr(module, "_compiler_ctx", None):
        return
    yield module
    if not isinstance(module, torch._dynamo.OptimizedModule):
        for child in module.children():
            yield from _find_hookable(child)
