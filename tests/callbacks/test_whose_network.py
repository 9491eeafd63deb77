"""The network explained is the one that answers: whatever ``forward`` does, and nothing else."""

from __future__ import annotations

import collections
import dataclasses

import pytest
import pytorch_lightning as L
import torch
from captum.attr import LayerGradCam
from convlens.callbacks import (
    Attribution,
    ConfusionMatrix,
    ExplanationCallback,
    GradCam,
    Ledger,
    Looks,
    Mistakes,
)
from convlens.callbacks.steps import StepObserver, find_network
from torch import nn

from convlens.config.compose import compose
from convlens.core.errors import UserError
from convlens.data.probes import Probes
from convlens.experiment.module import build_module
from convlens.explain import grad_cam
from convlens.explain.outputs import pick_logits
from convlens.training import ClassifierModule
from support.tiny import TINY

IMAGES = torch.rand(12, 3, 12, 12, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 3
NAMES = ("ant", "bee", "cat")
Pair = collections.namedtuple("Pair", "main aux")


@dataclasses.dataclass
class Answer:
    scores: torch.Tensor


class ModelOutput(collections.OrderedDict):
    """As transformers has it: a dictionary whose keys are attributes too."""

    def __getattr__(self, name):
        return self[name]


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


class Base(L.LightningModule):
    """``layer`` is explained; ``prepare`` is what the steps do to images before."""

    layer = "backbone.0"

    def __init__(self):
        super().__init__()
        self.backbone, self.head = net(), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.backbone(x))

    def prepare(self, x):
        return x

    def answer(self, x):
        return self(self.prepare(x))

    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self.answer(batch[0]), batch[1])

    def validation_step(self, batch, _):
        self.answer(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class ModelBesideHead(Base):
    """What ``self.model`` gives are features, and not logits."""

    layer = "model.0"

    def __init__(self):
        super().__init__()
        self.model = self.backbone
        del self.backbone

    def forward(self, x):
        return self.head(self.model(x))


class NormalisesInForward(Base):
    layer = "model.0"

    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(*net(), nn.Linear(4, 3))

    def forward(self, x):
        return self.model((x - 0.5) / 0.2)


class ModelIsAString(Base):
    def __init__(self):
        super().__init__()
        self.model = "resnet"


class ModelIsAList(Base):
    def __init__(self):
        super().__init__()
        self.model = [nn.Linear(2, 2)]


class ModelIsNone(Base):
    model = None


class ModelIsAProperty(Base):
    @property
    def model(self):
        raise RuntimeError("not built yet")


class ModelIsAFactory(Base):
    def model(self):
        return net()


class HasOurNames(Base):
    """Attributes that are called like convlens's own, and are something else."""

    schedule, record, compiled = "cosine", "none", True


class Net(Base):
    layer = "net.0"

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(*net(), nn.Linear(4, 3))
        del self.backbone, self.head

    def forward(self, x):
        return self.net(x)


class StepsCallTheNet(Net):
    """``forward`` is not called by the steps, but does what they do."""

    def answer(self, x):
        return self.net(x)


class MoreArguments(Base):
    def forward(self, x, temperature=2.0, *, scale=1.0):
        return super().forward(x) / temperature * scale


class Compiled(Net):
    def __init__(self):
        super().__init__()
        self.net = torch.compile(self.net, backend="eager")

    layer = "net._orig_mod.0"


GOOD = [
    Base, ModelBesideHead, NormalisesInForward, ModelIsAString, ModelIsAList, ModelIsNone,
    ModelIsAProperty, ModelIsAFactory, HasOurNames, Net, StepsCallTheNet, MoreArguments, Compiled,
]  # fmt: skip


class Seen(ExplanationCallback):
    """Keeps what it would draw."""

    def __init__(self, layer: str):
        super().__init__()
        self.layer, self.found = layer, {}

    def pictures(self, look):
        targets = torch.tensor([0, 1, 2])
        self.found[look.clock] = grad_cam(
            look.network, look.probes.images, targets, [self.layer], relu=False
        )
        yield from ()


def fit(module, callbacks, *, images=IMAGES, validate=True, sanity=1, **options):
    data = torch.utils.data.TensorDataset(images, LABELS)
    loader = torch.utils.data.DataLoader(data, 6)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=sanity,
        callbacks=callbacks, **options,
    )  # fmt: skip
    trainer.fit(module, loader, loader if validate else None)
    assert trainer.current_epoch == 1
    return trainer


def built(kind):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind()


def assert_is_forward(module, found, logits=lambda output: output):
    """The maps and logits are Captum's, of ``forward`` asked plainly."""

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = module

        def forward(self, x):
            return logits(self.inner(x))

    module.eval()
    with torch.no_grad():
        torch.testing.assert_close(found.logits, Plain()(IMAGES[:3]))
    layer = dict(module.named_modules())[next(iter(found.maps))]
    theirs = LayerGradCam(Plain(), layer).attribute(IMAGES[:3], torch.tensor([0, 1, 2]))
    torch.testing.assert_close(found.maps[next(iter(found.maps))], theirs.detach())


@pytest.mark.parametrize("kind", GOOD)
def test_what_forward_computes_is_explained(kind, said):
    module = built(kind)
    seen = Seen(kind.layer).watch(IMAGES[:3], LABELS[:3], NAMES)
    matrix = ConfusionMatrix().watch(IMAGES[:3], LABELS[:3], NAMES)
    trainer = fit(module, [seen, matrix])
    assert not said and not Looks.of(trainer).ledger.failures
    assert_is_forward(module, seen.found[1])
    with torch.no_grad():
        answers = module.eval()(IMAGES).argmax(1)
    assert Looks.of(trainer).predictions.latest["val"].predicted.tolist() == answers.tolist()


OUTPUTS = {
    "dict": (lambda main, aux: {"logits": main, "aux": aux}, "logits"),
    "tuple": (lambda main, aux: (main, aux), 0),
    "second": (lambda main, aux: (aux, main), 1),
    "namedtuple": (Pair, "main"),
    "dataclass": (lambda main, aux: Answer(main), "scores"),
    "model_output": (lambda main, aux: ModelOutput(loss=None, logits=main), "logits"),
    "function": (lambda main, aux: [[main]], lambda output: output[0][0]),
}


@pytest.mark.parametrize("shape", OUTPUTS)
def test_logits_says_where_the_logits_are(shape, said):
    put, where = OUTPUTS[shape]

    class Wrapped(Base):
        def forward(self, x):
            main = super().forward(x)
            return put(main, main.flip(1) * 3)

        def answer(self, x):
            return pick_logits(self(x), where, self)

    module = built(Wrapped)
    seen = Seen("backbone.0").watch(IMAGES[:3], LABELS[:3], NAMES, logits=where)
    matrix = ConfusionMatrix().watch(IMAGES[:3], LABELS[:3], NAMES, logits=where)
    trainer = fit(module, [seen, matrix])
    assert not said
    assert_is_forward(module, seen.found[1], lambda output: pick_logits(output, where, module))
    assert len(Looks.of(trainer).predictions.latest["val"]) == 12

    said.clear()
    lost = Seen("backbone.0").watch(IMAGES[:3], LABELS[:3], NAMES)
    fit(built(Wrapped), [lost])
    assert len(said) == 1 and "set logits= to a key" in said[0] and not lost.found


class NoForward(Base):
    forward = L.LightningModule.forward

    def answer(self, x):
        return self.head(self.backbone(x))


class NeedsMore(Base):
    def forward(self, x, task):
        return super().forward(x)

    def answer(self, x):
        return self(x, "a")


class StepsCallSomethingElse(Base):
    """``forward`` serves, the steps train another head."""

    def __init__(self):
        super().__init__()
        self.other = nn.Linear(4, 3)

    def answer(self, x):
        return self.other(self.backbone(x))


class Averaged(Net):
    """Validation asks a copy with averaged weights, which at first are the same."""

    def __init__(self):
        super().__init__()
        self.averaged = torch.optim.swa_utils.AveragedModel(self.net)

    def validation_step(self, batch, _):
        self.averaged(batch[0])


class NormalisesInTheStep(Base):
    def prepare(self, x):
        return (x - 0.5) / 0.2


class ReturnsOthers(Base):
    def validation_step(self, batch, _):
        return {"logits": self(batch[0]).flip(1)}


class TakesTheBatch(Base):
    def forward(self, x):
        return super().forward(x[0] if isinstance(x, list) else x)

    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self(batch), batch[1])

    def validation_step(self, batch, _):
        self(batch)


REFUSED = {
    NoForward: "has no forward",
    NeedsMore: "does not take images alone",
    StepsCallSomethingElse: "does not call forward",
    Averaged: "does not call forward",
    NormalisesInTheStep: "changes the images before it calls forward",
    ReturnsOthers: "is not the one that predicts",
    TakesTheBatch: "calls forward with a list",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_another_network_than_the_one_that_answers_is_refused(kind, said):
    seen = Seen("backbone.0").watch(IMAGES[:3], LABELS[:3], NAMES)
    trainer = fit(built(kind), [seen])
    assert not seen.found
    assert len(said) == 1 and REFUSED[kind] in said[0], said
    assert said[0].endswith("training continues") and "\n" not in said[0]
    assert "Seen" in Looks.of(trainer).ledger.failures


def test_a_preprocessing_of_the_step_that_is_named_is_explained(said):
    module = built(NormalisesInTheStep)
    seen = Seen("backbone.0")
    seen.watch(IMAGES[:3], LABELS[:3], NAMES, preprocess=lambda x: (x - 0.5) / 0.2)
    fit(module, [seen])
    assert not said
    assert_is_forward(_Before(module), seen.found[1])


class _Before(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.backbone, self.module = module.backbone, module

    def forward(self, x):
        return self.module((x - 0.5) / 0.2)


@pytest.mark.parametrize("kind", [StepsCallSomethingElse, TakesTheBatch])
def test_without_validation_a_training_step_tells(kind, said):
    seen = Seen("backbone.0").watch(IMAGES[:3], LABELS[:3], NAMES)
    fit(built(kind), [seen], validate=False)
    assert list(seen.found) == [0]  # before any step nothing is known
    assert len(said) == 1 and REFUSED[kind] in said[0]


@pytest.mark.parametrize("kind", [Base, StepsCallTheNet])
def test_without_validation_what_the_step_calls_is_explained(kind, said):
    module = built(kind)
    seen = Seen(kind.layer).watch(IMAGES[:3], LABELS[:3], NAMES)
    fit(module, [seen], validate=False)
    assert not said
    assert_is_forward(module, seen.found[1])


def test_images_that_are_fed_normalised_and_shown_plain_are_told(said):
    seen = Seen("backbone.0").watch(IMAGES[:3], LABELS[:3], NAMES)
    fit(built(Base), [seen], images=(IMAGES - 0.5) / 0.2)
    assert len(said) == 1 and "give the conversion as preprocess=" in said[0]


def test_mistakes_of_normalised_batches_are_not_normalised_twice(monkeypatch):
    asked = []

    def keep(network, images, targets, layers, **options):
        found = grad_cam(network, images, targets, layers, **options)
        asked.append((images, found))
        return found

    monkeypatch.setattr("convlens.callbacks.evidence.grad_cam", keep)
    module = built(Base)
    mistakes = Mistakes().watch(IMAGES[:3], LABELS[:3], NAMES, preprocess=lambda x: (x - 0.5) / 0.2)
    fit(module, [mistakes], images=(IMAGES - 0.5) / 0.2)
    images, found = asked[-1]
    with torch.no_grad():
        torch.testing.assert_close(found.logits, module.eval()(images))


def test_a_network_that_answers_by_chance_is_told_and_explained(said):
    class Chance(Base):
        def forward(self, x):
            return nn.functional.dropout(super().forward(x), 0.5, training=True)

    seen = Seen("backbone.0").watch(IMAGES[:3], LABELS[:3], NAMES)
    fit(built(Chance), [seen])
    assert len(said) == 1 and "different outputs for the same images" in said[0]
    assert 1 in seen.found


def test_two_calls_of_forward_leave_the_answers_open_unless_the_step_returns_them(said):
    class Twice(Base):
        def validation_step(self, batch, _):
            one, other = self(batch[0]), self(batch[0].flip(3))
            return {"logits": one + other} if self.returns else None

        returns = False

    matrix = ConfusionMatrix().watch(IMAGES[:3], LABELS[:3], NAMES)
    trainer = fit(built(Twice), [matrix])
    assert "val" not in Looks.of(trainer).predictions.latest
    assert len(said) == 1 and "return {'logits': …} from validation_step" in said[0]


@pytest.mark.parametrize("kind", [Base, StepsCallTheNet])
def test_answers_are_known_without_the_sanity_check(kind, said):
    module = built(kind)
    matrix = ConfusionMatrix().watch(IMAGES[:3], LABELS[:3], NAMES)
    trainer = fit(module, [matrix], sanity=0)
    with torch.no_grad():
        answers = module.eval()(IMAGES).argmax(1)
    assert not said
    assert Looks.of(trainer).predictions.latest["val"].predicted.tolist() == answers.tolist()


@pytest.mark.parametrize("kind", [Base, StepsCallTheNet])
def test_under_ddp_the_module_is_explained_and_not_its_wrapper(kind, said):
    """There Lightning sends the steps themselves through the module's ``__call__``."""
    module = built(kind)
    seen = Seen(kind.layer).watch(IMAGES[:3], LABELS[:3], NAMES)
    matrix = ConfusionMatrix().watch(IMAGES[:3], LABELS[:3], NAMES)
    trainer = fit(module, [seen, matrix], strategy="ddp", devices=1)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    assert not said
    assert_is_forward(module, seen.found[1])
    assert len(Looks.of(trainer).predictions.latest["val"]) == 12


def test_a_compiled_lightning_module_is_explained(said):
    module = built(Net)
    seen = Seen("net.0").watch(IMAGES[:3], LABELS[:3], NAMES)
    fit(torch.compile(module, backend="eager"), [seen])
    assert not said
    assert_is_forward(module, seen.found[1])


def test_weights_unchanged_by_the_comparison():
    def weights(callbacks, kind):
        module = built(kind)
        torch.manual_seed(1)
        fit(module, callbacks)
        return module.state_dict()

    for kind in (Base, StepsCallTheNet, StepsCallSomethingElse):
        cam = GradCam().watch(IMAGES[:3], LABELS[:3], NAMES)
        looked, alone = weights([cam], kind), weights([], kind)
        for name, value in looked.items():
            assert torch.equal(value, alone[name]), name


def test_weights_in_pieces_are_refused():
    trainer = type("T", (), {"strategy": L.strategies.FSDPStrategy()})()
    with pytest.raises(UserError, match="FSDPStrategy the weights are split"):
        find_network(trainer, Base())


def test_our_own_module_is_compared_once_and_keeps_its_network(monkeypatch):
    module = build_module(compose([*TINY, "model.head.dropout=0.5"]), list(NAMES))
    probes = Probes(torch.rand(3, 3, 16, 16), LABELS[:3], ["a", "b", "c"], ["a", "b", "c"])
    assert find_network(L.Trainer(logger=False, accelerator="cpu"), module) is module.model
    asked = []
    answer = ClassifierModule.compute_logits
    monkeypatch.setattr(
        ClassifierModule,
        "compute_logits",
        lambda self, batch: asked.append(1) or answer(self, batch),
    )
    own = StepObserver()
    assert not any(own.verdict(module, GradCam(), probes).refusal for _ in range(3))
    assert len(asked) == 1

    monkeypatch.setattr(
        ClassifierModule, "compute_logits", lambda self, batch: answer(self, batch) * 2
    )
    refusal = StepObserver().verdict(module, GradCam(), probes).refusal
    assert "is not the one that predicts" in refusal


def test_lrp_copies_the_network_and_not_the_trainer_around_it(said):
    class Precious:
        def __deepcopy__(self, memo):
            raise RuntimeError("must not be copied")

    class Plain(Base):
        def forward(self, x):
            return self.head(self.pool(self.act(self.conv(x))).flatten(1))

        def __init__(self):
            super().__init__()
            self.conv, self.act, self.pool = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AvgPool2d(10)
            self.precious = Precious()
            del self.backbone

    lrp = Attribution(method="lrp").watch(IMAGES[:2], LABELS[:2], NAMES)
    fit(built(Plain), [Looks(ledger=Ledger(floor=float("inf"))), lrp])
    assert not said
