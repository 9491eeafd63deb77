"""Which network is explained: what the module's ``forward`` computes, held against its own answers.

convlens's own module answers with ``model``, and that is explained, so that layers keep their
names. Of any other module it is the module itself, with whatever its ``forward`` does before and
after the network inside.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytorch_lightning as L
import torch
from convlens.callbacks.answers import parts_of
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn

from convlens.core.errors import UserError
from convlens.data.probes import Probes
from convlens.explain.outputs import OutputReader
from convlens.explain.similarity import alike
from convlens.explain.taps import explaining, pick_logits, picking, ready
from convlens.training import ClassifierModule

Preprocess = Callable[[Tensor], Tensor] | None
Where = str | int | Callable | None
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
    _check_forward(module)
    return module


def _check_forward(module: L.LightningModule) -> None:
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
class _Step:
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


class OwnAnswers:
    """Watches one step of a module, judges by it, and notes the answers of later ones.

    Shared by all callbacks of a trainer. A step of validation (Lightning's sanity check comes
    before training) tells most: there the answers themselves are compared. A training step, where
    there is no validation, only tells what was called.
    """

    def __init__(self):
        self.seen: _Step | None = None
        self._step: _Step | None = None
        self._watching = ExitStack()
        self._verdicts: dict[tuple, Verdict] = {}
        self._hook = None
        self._noted: list[object] = []
        self._noting: nn.Module | None = None
        self._outputs = "auto"
        self._reader: OutputReader | None = None

    @classmethod
    def of(cls, trainer: L.Trainer) -> OwnAnswers:
        """The trainer's; made at the first call."""
        if not hasattr(trainer, "convlens_own_answers"):
            trainer.convlens_own_answers = cls()
        return trainer.convlens_own_answers

    # --- watching a step

    def watch(self, module: L.LightningModule, *, training: bool) -> None:
        """A step begins; watched if it can tell what no step before it could."""
        known = self.seen is not None and (training or not self.seen.training)
        if self._step is not None or known or isinstance(module, ClassifierModule):
            return
        parts = list(_watchable(module))
        if not parts:
            return  # compiled as a whole
        step = self._step = _Step(training)

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

    def judge(
        self, module: L.LightningModule, outputs, batch, logits: Where, preprocess: Preprocess,
        probe: Tensor,
    ) -> Verdict:  # fmt: skip
        """What the step just seen tells, for callbacks that read the outputs like this.

        Args:
            outputs, batch: of the step.
            logits, preprocess: see :meth:`convlens.callbacks.base.ExplanationCallback.watch`.
            probe: one image (1, C, H, W) to explain.
        """
        key = (logits, preprocess)
        if key not in self._verdicts:
            pictures = parts_of(batch)[0]
            returned = outputs.get("logits") if isinstance(outputs, dict) else None
            judge = _Judge(self.seen, module, returned, pictures, logits, preprocess, probe)
            noted, self._noted = self._noted, []  # judging asks the module too
            found = self._verdicts[key] = judge.verdict()
            self._noted = noted
            if found.source not in (None, self._noting) and self._noting is not None:
                self.end()
                self.note(module, logits, preprocess, self._outputs)
                given = self.seen.outputs[found.source]
                self._noted = [self._reader.logits(given, len(given))]
        return self._verdicts[key]

    def verdict(
        self, module: L.LightningModule, logits: Where, preprocess: Preprocess, probes: Probes
    ) -> Verdict:
        """What is known so far; convlens's own module is compared at the first call."""
        key = (logits, preprocess)
        if isinstance(module, ClassifierModule) and key not in self._verdicts:
            self._verdicts[key] = _of_ours(module, probes.images[:1])
        return self._verdicts.get(key, Verdict())

    # --- noting answers

    def note(
        self, module: L.LightningModule, logits: Where, preprocess: Preprocess, outputs: str
    ) -> None:
        """A pass begins whose answers are wanted."""
        if self._noting is not None or isinstance(module, ClassifierModule):
            return  # the steps of ours return their logits
        source = self._verdicts.get((logits, preprocess), Verdict()).source or module
        self._noting, self._noted, self._outputs = source, [], outputs
        reader = self._reader = OutputReader(source, outputs).__enter__()

        def read(_, given, output) -> None:
            try:
                picked = pick_logits(output, logits if source is module else None, module).detach()
                images = given[0] if given and isinstance(given[0], Tensor) else picked
                self._noted.append(reader.logits(picked, len(images)))
            except Exception as error:  # it is raised where the answer is wanted
                told = isinstance(error, UserError)
                self._noted.append(error if told else UserError(f"{type(error).__name__}: {error}"))

        self._hook = source.register_forward_hook(read)

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
        if self._noting is not None:
            self._hook.remove()
            self._reader.__exit__()
            self._noting, self._noted = None, []


@dataclass
class _Judge:
    """Compares what ``forward`` answers with what was seen of a step."""

    step: _Step
    module: L.LightningModule
    returned: Tensor | None
    pictures: Tensor | None
    logits: Where
    preprocess: Preprocess
    probe: Tensor

    def verdict(self) -> Verdict:
        try:
            _check_forward(self.module)
            if not self.step.forward:
                return self._of_inner_calls()
            return self._of_training() if self.step.training else self._of_forward()
        except UserError as error:
            return Verdict(str(error))

    @property
    def _name(self) -> str:
        return type(self.module).__name__

    @property
    def _its_step(self) -> str:
        return f"{self._name}.{'training' if self.step.training else 'validation'}_step"

    def _of_training(self) -> Verdict:
        self._given()
        return Verdict(source=self.module)

    def _given(self) -> Tensor:
        given = self.step.forward[0][0]
        if not isinstance(given, Tensor) or given.dim() != 4:
            raise UserError(
                f"{self._its_step} calls forward with a {type(given).__name__}: callbacks can only "
                f"explain a forward(images) with images (B, C, H, W)"
            )
        return given

    def _of_forward(self) -> Verdict:
        """The step called ``forward``: it has to give the same again."""
        given, output = self._given(), self.step.forward[0][1]
        own = pick_logits(output, self.logits, self.module)
        again, steady = self._ask(given)
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
            inner: dict[nn.Module, Tensor] = {}
            again, _ = self._ask(pictures, inner)
            fed = pictures is self.pictures
            known = self.pictures is not None and not self.step.training
            if known and self.returned is not None:
                if alike(self.returned, again, self.step.narrow):
                    return Verdict(fed=fed)
                continue
            ends = [m for m, value in inner.items() if m in self.step.called
                    and alike(value, again, narrow=False)]  # fmt: skip
            for module in reversed(ends):
                seen = self.step.outputs.get(module)
                if not known or (seen is not None and alike(seen, again, self.step.narrow)):
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

    def _ask(self, images: Tensor, inner: dict[nn.Module, Tensor] | None = None):
        """The logits as the callbacks get them, and whether a second pass gives the same.

        ``inner`` is filled with what the modules within gave.
        """
        module = self.module
        with explaining(module), torch.no_grad(), picking(module, self.logits), ExitStack() as tap:
            images = ready(module, images)
            if inner is not None:
                for part in module.modules():
                    if part is not module:
                        hook = part.register_forward_hook(
                            lambda which, _, output: (
                                inner.update({which: output})
                                if isinstance(output, Tensor)
                                else None
                            )
                        )
                        tap.callback(hook.remove)
            answer = module(images)
            first = dict(inner or {})
            steady = alike(answer, module(images), narrow=False)
            if inner is not None:
                inner.update(first)
        return answer, steady

    def _compare(self, own: Tensor, again: Tensor, how: str) -> None:
        if alike(own, again, self.step.narrow):
            return
        raise UserError(
            f"{self._name}.forward answers {_numbers(again)} to an image for which {how} "
            f"{_numbers(own)}: the network that would be explained is not the one that answers"
        )

    def _fed(self, given: Tensor) -> bool:
        """Whether the batch holds what ``forward`` takes; else what ``preprocess`` makes of it."""
        if self.pictures is None or alike(given, self.pictures, self.step.narrow):
            return self.pictures is not None
        if self.preprocess is not None:
            made = self.preprocess(self.pictures)
            if alike(given, made, self.step.narrow):
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


def _of_ours(module: ClassifierModule, image: Tensor) -> Verdict:
    """Whether convlens's module answers what its ``model`` does, which is explained."""
    with explaining(module.model), torch.no_grad():
        image = ready(module.model, image)
        own, again = module.answer({"image": image}), module.model(image)
    if alike(own, again, narrow=False):
        return Verdict()
    return Verdict(
        f"{type(module).__name__}.model answers {_numbers(again)} to an image to which the module "
        f"answers {_numbers(own)}: the network that would be explained is not the one that answers"
    )


def _numbers(logits: Tensor) -> str:
    first = logits.detach().float().flatten(1)[0] if logits.dim() > 1 else logits.detach()[:1]
    shown = ", ".join(f"{value:.3g}" for value in first[:3].tolist())
    return f"[{shown}{', …' if len(first) > 3 else ''}]"


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
