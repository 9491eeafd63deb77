"""The schedule of a fine-tuning: what is trained when, at which rate.

Everything here is a pure function of the epoch and of the results that the checkpoint records, so
a resumed run goes on exactly where it was, in any number of processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

from torch import nn

from convlens.config.schema import (
    FinetuneConfig,
    OwnSchedulerConfig,
    PhaseConfig,
    PlateauConfig,
    SchedulerConfig,
    get_name,
)
from convlens.core.errors import UserError, check_name, nearest
from convlens.models import Classifier
from convlens.training.finetune.groups import Group, build_groups
from convlens.training.optimizers import RateFactor, build_rate_factor, depends_on_length

BATCH_NORM = ("frozen_eval", "eval", "train")
METRICS = ("val/loss", "val/accuracy", "train/loss", "train/accuracy")
Record = Mapping[int, Mapping[str, float]]  # epoch (from 0) to its results, val/loss and so on


@dataclass(frozen=True)
class Plateau:
    """Ends a phase when ``metric`` was not better for ``patience`` epochs of it."""

    metric: str
    patience: int

    def reached(self, values: list[float]) -> bool:
        """Whether the values of the phase's epochs so far end it; a loss is better lower."""
        best = min(values) if self.metric.endswith("loss") else max(values)
        return len(values) - 1 - values.index(best) >= self.patience


@dataclass(frozen=True)
class Phase:
    """One stretch of epochs with the same groups in training.

    Attributes:
        number: from 0.
        epochs: how many, at most.
        train: names of the groups in training.
        rates: of these, before the scheduler's factor.
        fresh: those that were not in training in the phase before: they are warmed up.
        augment: whether training pictures are augmented, as far as ``data.augment`` does.
        warmup_epochs: over which the fresh groups' rates rise from zero.
        until: ends the phase early, or None.
    """

    number: int
    epochs: int
    train: tuple[str, ...]
    rates: Mapping[str, float]
    fresh: frozenset[str]
    augment: bool
    warmup_epochs: float
    until: Plateau | None = None


@dataclass(frozen=True)
class Schedule:
    """Parameter groups and phases of a run.

    Attributes:
        groups: by name, in the order of the optimizer's groups.
        phases: one after the other.
        scheduler: how the rate falls within each phase: what it is multiplied by at a time of a
            phase of so many epochs.
        depends_on_length: whether the rates of a phase would be others if it had another number of
            epochs.
        scheduler_name: as the config names it.
        batch_norm: ``frozen_eval``, ``eval`` or ``train``, see :meth:`set_modes`.
        phased: whether the config has phases.
    """

    groups: Mapping[str, Group]
    phases: tuple[Phase, ...]
    scheduler: RateFactor = lambda time, epochs: 1.0
    depends_on_length: bool = False
    scheduler_name: str = "constant"
    batch_norm: str = "train"
    phased: bool = True

    @property
    def epochs(self) -> int:
        """Of all phases, where none ends early."""
        return sum(phase.epochs for phase in self.phases)

    @property
    def augments(self) -> bool:
        """Whether any phase augments, as far as ``data.augment`` does."""
        return any(phase.augment for phase in self.phases)

    def phase_at(self, epoch: int, record: Record) -> tuple[Phase, int]:
        """The phase of ``epoch`` (from 0) and the epoch it began with.

        Behind the last phase that is still the last one.
        """
        start = 0
        for phase in self.phases[:-1]:
            end = self._end(phase, start, record)
            if epoch < end:
                return phase, start
            start = end
        return self.phases[-1], start

    def is_finished(self, epoch: int, record: Record) -> bool:
        """Whether nothing is left to train at ``epoch`` completed epochs."""
        phase, start = self.phase_at(epoch, record)
        return phase is self.phases[-1] and epoch >= self._end(phase, start, record)

    def _end(self, phase: Phase, start: int, record: Record) -> int:
        epochs = range(start, start + phase.epochs)
        values: list[float] = []
        for epoch in epochs if phase.until else ():
            value = record.get(epoch, {}).get(phase.until.metric)
            if value is None:
                break
            values.append(value)
            if phase.until.reached(values):
                return epoch + 1
        return epochs.stop

    def list_spans(self, epochs: int) -> list[tuple[Phase, int, int]]:
        """Each phase of a run of ``epochs`` with the epochs (from 0) it begins and ends before.

        Where none ends early; a phase that the run does not come to has no epochs.
        """
        ends = [min(end, epochs) for end in accumulate(phase.epochs for phase in self.phases)]
        return list(zip(self.phases, [0, *ends], ends, strict=False))

    def describe_untrained(self, epochs: int) -> str:
        """What a run of ``epochs`` leaves out of the phases, in a line; empty where nothing."""
        missing, early = [], ""
        for phase, start, end in self.list_spans(epochs):
            which = f"phase {phase.number + 1} of {len(self.phases)} ({', '.join(phase.train)})"
            if start == end:
                missing.append(f"{which} will not be trained{early}")
            elif end - start < phase.epochs:
                missing.append(f"{which} gets {end - start} of its {phase.epochs} epochs")
            if phase.until:
                early = " unless an earlier one ends early"
        if not missing:
            return ""
        return (
            f"training.epochs={epochs} ends the run before the schedule: {'; '.join(missing)}; "
            f"training.epochs=null trains all {self.epochs} epochs"
        )

    def rates(self, time: float, record: Record) -> dict[str, float]:
        """Every group's learning rate at ``time`` (epochs since the start); 0 where it rests."""
        phase, start = self.phase_at(int(time), record)
        inside = time - start
        rates = dict.fromkeys(self.groups, 0.0)
        factor = self.scheduler(inside, phase.epochs)
        for name in phase.train:
            rates[name] = phase.rates[name] * factor
            if name in phase.fresh and inside < phase.warmup_epochs:
                rates[name] *= inside / phase.warmup_epochs
        return rates

    def trained(self, phase: Phase) -> set[str]:
        """Names of the parameters in training."""
        return {name for group in phase.train for name in self.groups[group].parameters}

    def freeze(self, model: nn.Module, phase: Phase) -> None:
        """Set ``requires_grad`` of every parameter as ``phase`` has it."""
        training = self.trained(phase)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in training)
            if name not in training:
                parameter.grad = None

    def set_modes(self, model: nn.Module) -> None:
        """Put what is frozen into evaluation mode; called while the network trains.

        ``frozen_eval``: a module whose parameters are all frozen is in evaluation mode with all
        below it, so its batch normalisation keeps its statistics and its dropout rests.
        ``eval``: all batch normalisation rests, trained or not. ``train``: nothing does; the
        statistics of frozen layers move with the data.
        """
        if self.batch_norm == "train":
            return
        _rest(model, frozen=False)
        for module in model.modules() if self.batch_norm == "eval" else ():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def _rest(module: nn.Module, frozen: bool) -> None:
    """Evaluation mode for subtrees without a trained parameter; what has none follows its parent.

    A network of which nothing was ever frozen (``scratch``) is left alone.
    """
    parameters = list(module.parameters())
    if parameters:
        frozen = not any(parameter.requires_grad for parameter in parameters)
    if frozen:
        module.eval()
        return
    for child in module.children():
        _rest(child, frozen)


def build_schedule(
    finetune: FinetuneConfig, epochs: int | None, lr: float,
    scheduler: SchedulerConfig | OwnSchedulerConfig, model: Classifier,
) -> Schedule:  # fmt: skip
    """The schedule that the config group ``finetune`` describes, for this network.

    Args:
        epochs: of the run; None for as many as the phases have.
        lr: where there are no phases: then everything is in training from the first to the last
            epoch, as one group named ``model``.

    Raises:
        UserError: one line for whatever in it does not fit itself or the network.
    """
    falls = (build_rate_factor(scheduler), depends_on_length(scheduler), get_name(scheduler))
    if not finetune.phases:
        if epochs is None:
            raise UserError("training.epochs: a whole number, there are no finetune.phases")
        names = tuple(name for name, _ in model.named_parameters())
        phase = Phase(0, epochs, ("model",), {"model": lr}, frozenset(), True, 0.0)
        return Schedule({"model": Group("model", names)}, (phase,), *falls, "train", phased=False)
    check_name("finetune.batch_norm", finetune.batch_norm, BATCH_NORM)
    families = build_groups(finetune.groups or {}, model)
    groups = {group.name: group for family in families.values() for group in family}
    phases: list[Phase] = []
    for number, entry in enumerate(finetune.phases):
        phases.append(_phase(number, entry, families, phases[-1].train if phases else ()))
    schedule = Schedule(groups, tuple(phases), *falls, finetune.batch_norm)
    if epochs is not None and epochs > schedule.epochs:
        raise UserError(
            f"training.epochs={epochs}: the phases of finetune have {schedule.epochs}; set "
            f"finetune.phases.{len(phases) - 1}.epochs"
        )
    return schedule


def _phase(
    number: int, entry: PhaseConfig, families: Mapping[str, list[Group]], before: tuple[str, ...]
) -> Phase:
    where = f"finetune.phases.{number}"
    rates: dict[str, float] = {}
    for name in entry.train:
        named = _named(where, name, families)
        rate = entry.lr.get(name) if isinstance(entry.lr, dict) else entry.lr
        if not isinstance(rate, int | float) or isinstance(rate, bool) or rate <= 0:
            raise UserError(f"{where}.lr: a rate above 0 for {name} is expected, not {rate}")
        for group in named:
            rates[group.name] = rate * group.factor
    if isinstance(entry.lr, dict) and (idle := [n for n in entry.lr if n not in entry.train]):
        raise UserError(f"{where}.lr: {idle[0]} has a rate but is not in {where}.train")
    if entry.warmup_epochs > entry.epochs:
        raise UserError(
            f"{where}.warmup_epochs={entry.warmup_epochs}: 0 to {entry.epochs} is expected"
        )
    fresh = frozenset(rates) - frozenset(before)
    return Phase(
        number, entry.epochs, tuple(rates), rates, fresh, entry.augment, entry.warmup_epochs,
        _plateau(where, entry.until),
    )  # fmt: skip


def _named(where: str, name: str, families: Mapping[str, list[Group]]) -> list[Group]:
    """The groups under a name: all stages of ``base``, or the one of ``base/block5``."""
    if name in families:
        return families[name]
    found = {group.name: group for family in families.values() for group in family}
    if name not in found:
        raise UserError(f"{where}.train: no group {name}; {nearest(name, [*families, *found])}")
    return [found[name]]


def _plateau(where: str, until: PlateauConfig | None) -> Plateau | None:
    if until is None:
        return None
    check_name(f"{where}.until.metric", until.metric, METRICS)
    return Plateau(until.metric, until.patience)
