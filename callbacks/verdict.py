"""Whether ``forward`` computes what a module predicts, judged by one of the module's own steps."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as L
import torch
from convlens.callbacks.explanation import LogitsLocation, Preprocess
from torch import Tensor, nn

from convlens.core.errors import UserError
from convlens.explain.mode import explaining, prepare_images
from convlens.explain.outputs import add_logits_picker, pick_logits
from convlens.explain.similarity import are_close
from convlens.training import ClassifierModule


def check_forward(module: L.LightningModule) -> None:
    """Raise a UserError if ``forward`` is missing or needs more than images."""
    name = type(module).__name__
    if getattr(module.forward, "__func__", None) is L.LightningModule.forward:
        raise UserError(
            f"{name} has no forward, which is what callbacks explain: add one that returns the "
            f"logits, `def forward(self, images): …`"
        )
    try:
        inspect.signature(module.forward).bind(None)
    except TypeError as error:
        raise UserError(
            f"{name}.forward does not take images alone ({error}): give other arguments defaults"
        ) from None
    except ValueError:  # a callable without a signature; calling it will show
        return


@dataclass
class StepRecord:
    """What was observed of one of the module's own steps.

    Attributes:
        training: whether it was a training step.
        forward: input and output of every call of ``forward``, in the order in which they ended.
        outputs: the first output of each module inside, if it looks like logits.
        called: all modules that were called.
        half_precision: whether anything was computed in half precision.
    """

    training: bool
    forward: list[tuple[Any, Any]] = field(default_factory=list)
    outputs: dict[nn.Module, Tensor] = field(default_factory=dict)
    called: set[nn.Module] = field(default_factory=set)
    half_precision: bool = False


@dataclass(frozen=True)
class Verdict:
    """Whether ``forward`` computes what the module predicts.

    Attributes:
        refusal: why nothing can be explained, in one line; empty if it can.
        source: the module whose output is the prediction: the module itself, or a part that its
            steps call; None if the steps return their logits.
        preprocessed: whether the batches hold images as ``forward`` takes them.
        warning: another problem, in one line; empty if there is none.
    """

    refusal: str = ""
    source: nn.Module | None = None
    preprocessed: bool = False
    warning: str = ""


@dataclass
class Judge:
    """Compares what ``forward`` computes with what was observed of a step.

    Attributes:
        step: what was observed.
        module: the module whose step it was.
        returned: the logits that the step returned, or None.
        images: the images of the batch (B, C, H, W), or None.
        logits: where the logits are in the output of ``forward``.
        preprocess: turns images to explain into what ``forward`` takes.
        probe: one image to explain, (1, C, H, W).
    """

    step: StepRecord
    module: L.LightningModule
    returned: Tensor | None
    images: Tensor | None
    logits: LogitsLocation
    preprocess: Preprocess
    probe: Tensor

    def decide(self) -> Verdict:
        """Return the verdict."""
        try:
            check_forward(self.module)
            if not self.step.forward:
                return self._judge_inner_calls()
            inputs = self._get_inputs()
            if self.step.training:
                return Verdict(source=self.module)
            return self._judge_forward(inputs)
        except UserError as error:
            return Verdict(str(error))

    @property
    def _name(self) -> str:
        return type(self.module).__name__

    @property
    def _step_name(self) -> str:
        return f"{self._name}.{'training' if self.step.training else 'validation'}_step"

    def _get_inputs(self) -> Tensor:
        inputs = self.step.forward[0][0]
        if not isinstance(inputs, Tensor) or inputs.dim() != 4:
            raise UserError(
                f"{self._step_name} calls forward with a {type(inputs).__name__}: callbacks can "
                f"only explain forward(images) with images (B, C, H, W)"
            )
        return inputs

    def _judge_forward(self, inputs: Tensor) -> Verdict:
        """Judge a step that called ``forward``, which must give the same result again."""
        own = pick_logits(self.step.forward[0][1], self.logits, self.module)
        with self._output_logits():
            images = prepare_images(self.module, inputs)
            again = self.module(images)
            repeatable = are_close(again, self.module(images), narrow=False)
        if repeatable:
            self._compare(own, again, "the step got")
            if self.returned is not None and len(self.returned) == len(again):
                self._compare(self.returned, again, "the step returns")
        preprocessed = self._is_preprocessed(inputs)
        warning = self._check_range(inputs) if repeatable else (
            f"{self._name} gives different outputs for the same images each time, even in "
            f"evaluation mode: its maps hold for one of them only"
        )  # fmt: skip
        single = len(self.step.forward) == 1 and self.returned is None
        return Verdict(
            source=self.module if single else None, preprocessed=preprocessed, warning=warning
        )

    def _judge_inner_calls(self) -> Verdict:
        """Judge a step that calls the parts itself: one of them must give what ``forward`` does."""
        for images in self._list_candidate_inputs():
            with self._output_logits(), _record_outputs(self.module) as inner:
                again = self.module(prepare_images(self.module, images))
            preprocessed = images is self.images
            known = self.images is not None and not self.step.training
            if known and self.returned is not None:
                if are_close(self.returned, again, self.step.half_precision):
                    return Verdict(preprocessed=preprocessed)
                continue
            ends = [m for m, value in inner.items() if m in self.step.called
                    and are_close(value, again, narrow=False)]  # fmt: skip
            for module in reversed(ends):
                seen = self.step.outputs.get(module)
                if not known or (
                    seen is not None and are_close(seen, again, self.step.half_precision)
                ):
                    return Verdict(source=module, preprocessed=preprocessed)
        raise UserError(
            f"{self._step_name} does not call forward, which predicts something else: call "
            f"self(images), or return {{'logits': …}}; give its image preprocessing as preprocess="
        )

    def _list_candidate_inputs(self) -> Iterator[Tensor]:
        """Yield images as ``forward`` may take them."""
        if self.images is None or self.step.training:
            prepare = self.preprocess or (lambda images: images)
            yield prepare(self.probe.to(self.module.device))
            return
        yield self.images
        if self.preprocess is not None:
            yield self.preprocess(self.images)

    @contextmanager
    def _output_logits(self) -> Iterator[None]:
        """Make the module return logits, as the callbacks call it, while this lasts."""
        with explaining(self.module), torch.no_grad(), add_logits_picker(self.module, self.logits):
            yield

    def _compare(self, own: Tensor, again: Tensor, what: str) -> None:
        if are_close(own, again, self.step.half_precision):
            return
        raise UserError(
            f"{self._name}.forward gives {_format_numbers(again)} for an image for which {what} "
            f"{_format_numbers(own)}: the network to explain is not the one that predicts"
        )

    def _is_preprocessed(self, inputs: Tensor) -> bool:
        """Return whether the batch holds what ``forward`` takes, not what ``preprocess`` takes."""
        if self.images is None or are_close(inputs, self.images, self.step.half_precision):
            return self.images is not None
        prepared = self.preprocess and self.preprocess(self.images)
        if prepared is not None and are_close(inputs, prepared, self.step.half_precision):
            return False
        raise UserError(
            f"{self._step_name} changes the images before it calls forward: give that change as "
            f"preprocess=, so that the images to explain get it too"
        )

    def _check_range(self, inputs: Tensor) -> str:
        low, high = float(inputs.min()), float(inputs.max())
        if self.preprocess is not None or (low >= -1e-3 and high <= 1 + 1e-3):
            return ""
        return (
            f"{self._name} gets values from {low:.2g} to {high:.2g}, but the images to explain are "
            f"in [0, 1]: give the conversion as preprocess="
        )


@contextmanager
def _record_outputs(module: nn.Module) -> Iterator[dict[nn.Module, Tensor]]:
    """Collect the outputs of the modules inside, while this lasts."""
    inner: dict[nn.Module, Tensor] = {}

    def note(which: nn.Module, _: Any, output: Any) -> None:
        if which is not module and isinstance(output, Tensor):
            inner[which] = output

    with ExitStack() as hooks:
        for part in module.modules():
            hooks.callback(part.register_forward_hook(note).remove)
        yield inner


def judge_own_module(module: ClassifierModule, image: Tensor) -> Verdict:
    """Return whether convlens's module predicts what its ``model`` does, which is explained."""
    with explaining(module.model), torch.no_grad():
        image = prepare_images(module.model, image)
        own, again = module.compute_logits({"image": image}), module.model(image)
    if are_close(own, again, narrow=False):
        return Verdict()
    return Verdict(
        f"{type(module).__name__}.model gives {_format_numbers(again)} for an image for which the "
        f"module gives {_format_numbers(own)}: the network to explain is not the one that predicts"
    )


def _format_numbers(logits: Tensor) -> str:
    first = logits.detach().float().flatten(1)[0] if logits.dim() > 1 else logits.detach()[:1]
    numbers = ", ".join(f"{value:.3g}" for value in first[:3].tolist())
    return f"[{numbers}{', …' if len(first) > 3 else ''}]"
