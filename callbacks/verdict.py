"""Whether what ``forward`` computes is what a module answers with, by one of its own steps."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pytorch_lightning as L
import torch
from torch import Tensor, nn

from convlens.core.errors import UserError
from convlens.explain.mode import explaining, prepare_images
from convlens.explain.outputs import add_logits_picker, pick_logits
from convlens.explain.similarity import are_close
from convlens.training import ClassifierModule

Preprocess = Callable[[Tensor], Tensor] | None
Where = str | int | Callable | None


def check_forward(module: L.LightningModule) -> None:
    """UserError where ``forward`` is not there, or wants more than images."""
    name = type(module).__name__
    if getattr(module.forward, "__func__", None) is L.LightningModule.forward:
        raise UserError(
            f"{name} has no forward, which is what callbacks explain: give it one that returns the "
            f"logits of images, as in `def forward(self, x): return self.head(self.backbone(x))`"
        )
    try:
        inspect.signature(module.forward).bind(None)
    except TypeError as error:
        raise UserError(
            f"{name}.forward does not take images alone ({error}): give its other arguments "
            f"defaults, so that the callbacks can call it"
        ) from None
    except ValueError:  # no signature is to be had; the call will tell
        return


@dataclass
class Step:
    """What was seen of one of the module's own steps.

    Attributes:
        training: whether it was a training step.
        forward: input and output of every call of ``forward``, in the order in which they ended.
        outputs: what each module inside gave first, if it looks like logits.
        narrow: whether anything was computed in half precision.
    """

    training: bool
    forward: list[tuple[object, object]] = field(default_factory=list)
    outputs: dict[nn.Module, Tensor] = field(default_factory=dict)
    called: set[nn.Module] = field(default_factory=set)
    narrow: bool = False


@dataclass(frozen=True)
class Verdict:
    """Whether ``forward`` is what the module answers with.

    Attributes:
        refusal: why nothing can be explained, in a line, or nothing.
        source: whose output is the module's answer: the module itself, or one within that its steps
            call; None where the steps return their logits.
        fed: whether the batches hold images as ``forward`` takes them, already preprocessed.
        warning: what else is to be said.
    """

    refusal: str = ""
    source: nn.Module | None = None
    fed: bool = False
    warning: str = ""


@dataclass
class Judge:
    """Compares what ``forward`` answers with what was seen of a step."""

    step: Step
    module: L.LightningModule
    returned: Tensor | None
    pictures: Tensor | None
    logits: Where
    preprocess: Preprocess
    probe: Tensor

    def verdict(self) -> Verdict:
        try:
            check_forward(self.module)
            if not self.step.forward:
                return self._of_inner_calls()
            given = self._given()
            return Verdict(source=self.module) if self.step.training else self._of_forward(given)
        except UserError as error:
            return Verdict(str(error))

    @property
    def _name(self) -> str:
        return type(self.module).__name__

    @property
    def _its_step(self) -> str:
        return f"{self._name}.{'training' if self.step.training else 'validation'}_step"

    def _given(self) -> Tensor:
        given = self.step.forward[0][0]
        if not isinstance(given, Tensor) or given.dim() != 4:
            raise UserError(
                f"{self._its_step} calls forward with a {type(given).__name__}: callbacks can only "
                f"explain a forward(images) with images (B, C, H, W)"
            )
        return given

    def _of_forward(self, given: Tensor) -> Verdict:
        """The step called ``forward``: it has to give the same again."""
        own = pick_logits(self.step.forward[0][1], self.logits, self.module)
        with self._asking():
            images = prepare_images(self.module, given)
            again = self.module(images)
            steady = are_close(again, self.module(images), narrow=False)
        if steady:
            self._compare(own, again, "the step itself got")
            if self.returned is not None and len(self.returned) == len(again):
                self._compare(self.returned, again, "the step returns the logits")
        fed = self._fed(given)
        warning = self._range(given) if steady else (
            f"{self._name} answers the same images differently each time in evaluation mode: its "
            f"maps hold for only one of its answers"
        )  # fmt: skip
        single = len(self.step.forward) == 1 and self.returned is None
        return Verdict(source=self.module if single else None, fed=fed, warning=warning)

    def _of_inner_calls(self) -> Verdict:
        """The step calls the parts itself: ``forward`` has to end with what one of them gave."""
        for pictures in self._as_forward_takes_them():
            with self._asking(), _noting_parts(self.module) as inner:
                again = self.module(prepare_images(self.module, pictures))
            fed = pictures is self.pictures
            known = self.pictures is not None and not self.step.training
            if known and self.returned is not None:
                if are_close(self.returned, again, self.step.narrow):
                    return Verdict(fed=fed)
                continue
            ends = [m for m, value in inner.items() if m in self.step.called
                    and are_close(value, again, narrow=False)]  # fmt: skip
            for module in reversed(ends):
                seen = self.step.outputs.get(module)
                if not known or (seen is not None and are_close(seen, again, self.step.narrow)):
                    return Verdict(source=module, fed=fed)
        raise UserError(
            f"{self._its_step} does not call forward, and what forward answers is not what it "
            f"uses: call self(images) there, or return {{'logits': …}} from validation_step, and "
            f"give what it does to the images before as preprocess="
        )

    def _as_forward_takes_them(self) -> Iterator[Tensor]:
        if self.pictures is None or self.step.training:
            made = self.preprocess or (lambda images: images)
            yield made(self.probe.to(self.module.device))
            return
        yield self.pictures
        if self.preprocess is not None:
            yield self.preprocess(self.pictures)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """The module answers as the callbacks have it while this lasts."""
        with explaining(self.module), torch.no_grad(), add_logits_picker(self.module, self.logits):
            yield

    def _compare(self, own: Tensor, again: Tensor, how: str) -> None:
        if are_close(own, again, self.step.narrow):
            return
        raise UserError(
            f"{self._name}.forward answers {_numbers(again)} to an image for which {how} "
            f"{_numbers(own)}: the network that would be explained is not the one that answers"
        )

    def _fed(self, given: Tensor) -> bool:
        """Whether the batch holds what ``forward`` takes; else what ``preprocess`` makes of it."""
        if self.pictures is None or are_close(given, self.pictures, self.step.narrow):
            return self.pictures is not None
        made = self.preprocess and self.preprocess(self.pictures)
        if made is not None and are_close(given, made, self.step.narrow):
            return False
        raise UserError(
            f"{self._its_step} changes the images before it calls forward: give that change "
            f"as preprocess=, so that the images to explain reach it in the same form"
        )

    def _range(self, given: Tensor) -> str:
        low, high = float(given.min()), float(given.max())
        if self.preprocess is not None or (low >= -1e-3 and high <= 1 + 1e-3):
            return ""
        return (
            f"{self._name} is fed values from {low:.2g} to {high:.2g}, the images to explain lie "
            f"in [0, 1], and no preprocess= says how to convert them"
        )


@contextmanager
def _noting_parts(module: nn.Module) -> Iterator[dict[nn.Module, Tensor]]:
    """What the modules within give, while this lasts."""
    inner: dict[nn.Module, Tensor] = {}

    def note(which: nn.Module, _, output) -> None:
        if which is not module and isinstance(output, Tensor):
            inner[which] = output

    with ExitStack() as hooks:
        for part in module.modules():
            hooks.callback(part.register_forward_hook(note).remove)
        yield inner


def of_ours(module: ClassifierModule, image: Tensor) -> Verdict:
    """Whether convlens's module answers what its ``model`` does, which is explained."""
    with explaining(module.model), torch.no_grad():
        image = prepare_images(module.model, image)
        own, again = module.compute_logits({"image": image}), module.model(image)
    if are_close(own, again, narrow=False):
        return Verdict()
    return Verdict(
        f"{type(module).__name__}.model answers {_numbers(again)} to an image to which the module "
        f"answers {_numbers(own)}: the network that would be explained is not the one that answers"
    )


def _numbers(logits: Tensor) -> str:
    first = logits.detach().float().flatten(1)[0] if logits.dim() > 1 else logits.detach()[:1]
    shown = ", ".join(f"{value:.3g}" for value in first[:3].tolist())
    return f"[{shown}{', …' if len(first) > 3 else ''}]"
