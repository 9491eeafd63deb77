"""The fine-tuning schedule: what is trained when, and at which learning rate.

It is a pure function of the epoch and of the results recorded in the checkpoint, so a resumed run
continues exactly where it stopped, with any number of processes.
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
Record = Mapping[int, Mapping[str, float]]  # epoch (from 0) to its results, such as val/loss


@dataclass(frozen=True)
class Plateau:
    """Ends a phase if ``metric`` has not improved for ``patience`` of its epochs.

    Attributes:
        metric: name of the metric; lower is better for a loss, higher for any other.
        patience: epochs to wait for an improvement.
    """

    metric: str
    patience: int

    def is_reached(self, values: list[float]) -> bool:
        """Return whether the metric's values in the phase so far end it."""
        best = min(values) if self.metric.endswith("loss") else max(values)
        return len(values) - 1 - values.index(best) >= self.patience


@dataclass(frozen=True)
class Phase:
    """Consecutive epochs in which the same groups are trained.

    Attributes:
        number: number of the phase, from 0.
        epochs: the maximum number of epochs.
        train: names of the trained groups.
        rates: their learning rates, before the scheduler's factor.
        fresh: groups that the previous phase did not train; they are warmed up.
        augment: whether ``data.augment`` applies to training images.
        warmup_epochs: epochs in which the rates of the fresh groups rise from zero.
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
        phases: in order.
        scheduler: factor of the rates, a function of the time in a phase and of its epochs.
        depends_on_length: whether the rates of a phase depend on its number of epochs.
        scheduler_name: as in the config.
        batch_norm: ``frozen_eval``, ``eval`` or ``train``, see ``set_modes``.
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
        """Number of epochs of all phases, if none ends early."""
        return sum(phase.epochs for phase in self.phases)

    @property
    def augments(self) -> bool:
        """Whether ``data.augment`` applies to training images in any phase."""
        return any(phase.augment for phase in self.phases)

    def phase_at(self, epoch: int, record: Record) -> tuple[Phase, int]:
        """Return the phase of ``epoch`` (from 0) and its first epoch.

        After the end of the schedule, this is still the last phase.

        Args:
            epoch: number of the epoch, from 0.
            record: results of the epochs before it.
        """
        start = 0
        for phase in self.phases[:-1]:
            end = self._end(phase, start, record)
            if epoch < end:
                return phase, start
            start = end
        return self.phases[-1], start

    def is_finished(self, epoch: int, record: Record) -> bool:
        """Return whether the schedule ends after ``epoch`` completed epochs."""
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
            if phase.until.is_reached(values):
                return epoch + 1
        return epochs.stop

    def list_spans(self, epochs: int) -> list[tuple[Phase, int, int]]:
        """Return each phase of a run of ``epochs`` with its first epoch and the one after its last.

        Assumes that no phase ends early. A phase that the run does not reach has no epochs.
        """
        ends = [min(end, epochs) for end in accumulate(phase.epochs for phase in self.phases)]
        return list(zip(self.phases, [0, *ends], ends, strict=False))

    def describe_untrained(self, epochs: int) -> str:
        """Return one line about phases that a run of ``epochs`` does not complete, or ''."""
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
        """Return the learning rate of every group, 0 for frozen ones.

        Args:
            time: epochs since the start, with fractions.
            record: results of the epochs before it.
        """
        phase, start = self.phase_at(int(time), record)
        elapsed = time - start
        rates = dict.fromkeys(self.groups, 0.0)
        factor = self.scheduler(elapsed, phase.epochs)
        for name in phase.train:
            rates[name] = phase.rates[name] * factor
            if name in phase.fresh and elapsed < phase.warmup_epochs:
                rates[name] *= elapsed / phase.warmup_epochs
        return rates

    def trained(self, phase: Phase) -> set[str]:
        """Return the names of the parameters that a phase trains."""
        return {name for group in phase.train for name in self.groups[group].parameters}

    def freeze(self, model: nn.Module, phase: Phase) -> None:
        """Set ``requires_grad`` of every parameter for ``phase``."""
        training = self.trained(phase)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in training)
            if name not in training:
                parameter.grad = None

    def set_modes(self, model: nn.Module) -> None:
        """Put frozen modules into evaluation mode; called while the network trains.

        ``frozen_eval``: a module whose parameters are all frozen is in evaluation mode, with all
        its children: batch normalisation keeps its statistics, dropout is off. ``eval``: the same,
        and all batch normalisation is in evaluation mode, trained or not. ``train``: no module is;
        the statistics of frozen layers are updated.

        Args:
            model: the network.
        """
        if self.batch_norm == "train":
            return
        _set_frozen_to_eval(model, frozen=False)
        for module in model.modules() if self.batch_norm == "eval" else ():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def _set_frozen_to_eval(module: nn.Module, frozen: bool) -> None:
    """Put subtrees without a trained parameter into evaluation mode.

    Modules without parameters follow their parent. Without frozen parameters nothing changes.
    """
    parameters = list(module.parameters())
    if parameters:
        frozen = not any(parameter.requires_grad for parameter in parameters)
    if frozen:
        module.eval()
        return
    for child in module.children():
        _set_frozen_to_eval(child, frozen)


def build_schedule(
    finetune: FinetuneConfig, epochs: int | None, lr: float,
    scheduler: SchedulerConfig | OwnSchedulerConfig, model: Classifier,
) -> Schedule:  # fmt: skip
    """Build the schedule that the config group ``finetune`` describes.

    Without phases, everything is trained in every epoch, as one group named ``model``.

    Args:
        finetune: the config group.
        epochs: epochs of the run; None for those of all phases.
        lr: learning rate if there are no phases.
        scheduler: the config group.
        model: the network.

    Raises:
        UserError: the schedule contradicts itself or does not fit the network.
    """
    rate_options = (build_rate_factor(scheduler), depends_on_length(scheduler), get_name(scheduler))
    if not finetune.phases:
        if epochs is None:
            raise UserError(
                "training.epochs must be a whole number, because there are no finetune.phases"
            )
        names = tuple(name for name, _ in model.named_parameters())
        phase = Phase(0, epochs, ("model",), {"model": lr}, frozenset(), True, 0.0)
        return Schedule(
            {"model": Group("model", names)}, (phase,), *rate_options, "train", phased=False
        )
    check_name("finetune.batch_norm", finetune.batch_norm, BATCH_NORM)
    families = build_groups(finetune.groups or {}, model)
    groups = {group.name: group for family in families.values() for group in family}
    phases: list[Phase] = []
    for number, entry in enumerate(finetune.phases):
        phases.append(_build_phase(number, entry, families, phases[-1].train if phases else ()))
    schedule = Schedule(groups, tuple(phases), *rate_options, finetune.batch_norm)
    if epochs is not None and epochs > schedule.epochs:
        raise UserError(
            f"training.epochs={epochs}: the phases of finetune have only {schedule.epochs} epochs; "
            f"set finetune.phases.{len(phases) - 1}.epochs"
        )
    return schedule


def _build_phase(
    number: int, entry: PhaseConfig, families: Mapping[str, list[Group]], before: tuple[str, ...]
) -> Phase:
    where = f"finetune.phases.{number}"
    rates: dict[str, float] = {}
    for name in entry.train:
        members = _find_groups(where, name, families)
        rate = entry.lr.get(name) if isinstance(entry.lr, dict) else entry.lr
        if not isinstance(rate, int | float) or isinstance(rate, bool) or rate <= 0:
            raise UserError(f"{where}.lr: the rate of {name} must be above 0, not {rate}")
        for group in members:
            rates[group.name] = rate * group.factor
    if isinstance(entry.lr, dict) and (idle := [n for n in entry.lr if n not in entry.train]):
        raise UserError(f"{where}.lr: {idle[0]} has a rate but is not in {where}.train")
    if entry.warmup_epochs > entry.epochs:
        raise UserError(f"{where}.warmup_epochs={entry.warmup_epochs}: choose 0 to {entry.epochs}")
    fresh = frozenset(rates) - frozenset(before)
    return Phase(
        number, entry.epochs, tuple(rates), rates, fresh, entry.augment, entry.warmup_epochs,
        _build_plateau(where, entry.until),
    )  # fmt: skip


def _find_groups(where: str, name: str, families: Mapping[str, list[Group]]) -> list[Group]:
    """Return the groups of a name: all stages for ``base``, one for ``base/block5``."""
    if name in families:
        return families[name]
    groups = {group.name: group for family in families.values() for group in family}
    if name not in groups:
        raise UserError(f"{where}.train: no group {name}; {nearest(name, [*families, *groups])}")
    return [groups[name]]


def _build_plateau(where: str, until: PlateauConfig | None) -> Plateau | None:
    if until is None:
        return None
    check_name(f"{where}.until.metric", until.metric, METRICS)
    return Plateau(until.metric, until.patience)
