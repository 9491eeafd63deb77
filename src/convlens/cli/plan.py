"""``make plan exp=NAME [key=value …]`` or ``make plan ckpt=FILE``: look before training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from convlens.cli.results import screen
from convlens.cli.words import extract
from convlens.config.compose import compose
from convlens.config.schema import name_of
from convlens.rundir import log as logs

if TYPE_CHECKING:
    from convlens.experiment.plan import Cost, Plan, PlannedPhase
    from convlens.models.layers import LayerRow


def run(words: list[str]) -> int:
    logs.speak()
    asked, words = extract(words, "ckpt")
    if asked:
        return _of_checkpoint(asked, words)
    config = compose(words)
    from convlens.experiment.plan import plan

    logs.hush()  # Lightning, imported by now, has given itself a screen
    planned = plan(config)
    if planned.weights:
        print(f"training would first download the weights: {planned.weights}")
    if download := planned.download:
        print(
            f"training would first download data={config.data.name} "
            f"({download.megabytes} MB) into {download.folder}"
        )
    else:
        _print_data(planned)
    _print_network(config.model.name, planned.layers)
    _print_training(planned)
    if config.finetune.phases:
        _print_phases(planned.phases)
    for line in planned.warnings:
        print(f"! {line}")
    _print_logged(planned)
    return 0


def _of_checkpoint(asked: str, words: list[str]) -> int:
    """The network of a checkpoint."""
    from convlens.experiment.checkpoints import checkpoint_path
    from convlens.experiment.plan import plan_network

    path = checkpoint_path(asked, None)
    layers, config, epochs = plan_network(path, words)
    _print_network(config.model.name, layers)
    print(f"{path}: after epoch {epochs} of {config.experiment}")
    return 0


def _table(title: str, *columns: str) -> Table:
    print(title)
    table = Table()
    for number, column in enumerate(columns):
        first = number == 0
        table.add_column(column, justify="left" if first else "right", no_wrap=first)
    return table


def _print_data(plan: Plan) -> None:
    index = plan.index
    table = _table(f"data: {plan.config.data.name}", "class", *index.counts)
    rows = [
        (name, *(str(counts[number]) for counts in index.counts.values()))
        for number, name in enumerate(index.class_names)
    ]
    for row in rows if len(rows) <= 40 else [*rows[:20], ("…",), *rows[-19:]]:
        table.add_row(*row)
    table.add_section()
    table.add_row("all", *(str(counts.sum()) for counts in index.counts.values()))
    if index.masked:
        table.add_row("with a mask", *map(str, index.masked.values()))
    screen().print(table)
    for line in index.notes:
        print(f"! {line}")


def _print_network(name: str, rows: Sequence[LayerRow]) -> None:
    table = _table(
        f"network: {name}", "layer", "kind", "output", "parameters", "receptive field"
    )  # fmt: skip
    for row in rows:
        field = f"{row.receptive_field} px"
        if row.receptive_field is None:  # behind branches: not in closed form
            field = "whole picture" if row.path.startswith("head.") else ""
        output = "×".join(map(str, row.output or ()))
        table.add_row(row.path, row.kind, output, f"{row.parameters:,}", field)
    table.add_section()
    convolutions = sum(row.parameters for row in rows if row.convolution)
    table.add_row("convolutions", "", "", f"{convolutions:,}", "")
    table.add_row("all", "", "", f"{sum(row.parameters for row in rows):,}", "")
    screen().print(table)


def _print_training(plan: Plan) -> None:
    config, training = plan.config, plan.config.training
    moves = "" if training.accumulate == 1 else f", {training.accumulate} to an update"
    several = "one pass in steps" if plan.steps is None else f"{plan.steps} steps"
    table = _table("training", "", "")
    table.add_row("epochs", f"{training.epochs} of {several} of {plan.batch}{moves}")
    table.add_row("pictures", "augmented" if plan.augmented else "not augmented")
    table.add_row("loss", training.loss)
    optimizer = config.optimizer
    rate = "" if config.finetune.phases else f", learning rate {optimizer.lr:g}"
    table.add_row("optimizer", name_of(optimizer) + rate)
    table.add_row("scheduler", name_of(config.scheduler))
    asked = str(config.precision)
    shown = plan.precision if plan.precision == asked else f"{plan.precision} ({asked})"
    table.add_row("precision", shown)
    for cost in plan.costs:
        which = f", phase {cost.phase + 1}" if len(plan.phases) > 1 else ""
        table.add_row(f"estimated cost{which}", _cost_text(cost, plan.steps))
    if plan.costs:
        note = "training alone, end to end, from a few steps on a few images, now or earlier"
        table.add_row("", note)
    screen().print(table)


def _cost_text(cost: Cost, steps: int | None) -> str:
    if cost.step is None:
        text = f"{cost.epochs} epochs on stored features"
        if cost.features is None:
            return text
        return f"{text}, which take {cost.features / 60:.1f} minutes if they are not stored yet"
    text = f"{1000 * cost.step:.0f} ms a step"
    if steps is None:
        return text
    epoch = steps * cost.step
    minutes = cost.epochs * epoch / 60
    return f"{text}, {epoch:.0f} s an epoch, {minutes:.1f} minutes for {cost.epochs} of them"


def _print_phases(phases: Sequence[PlannedPhase]) -> None:
    """A row a group: epochs, rates, trained parameters, stored features or not."""
    table = _table(
        "phases",
        "phase",
        "epochs",
        "group",
        "rate",
        "parameters",
        "warm-up epochs",
        "augmented",
        "stored",
    )
    for planned in phases:
        phase, start, end = planned.phase, planned.start, planned.end
        until = f", until {phase.until.metric} rests {phase.until.patience}" if phase.until else ""
        epochs = f"{start + 1}–{end}{until}" if end > start else "none"
        stored = f"behind {planned.stored}" if planned.stored else "no"
        ends = ["yes" if planned.augmented else "no", stored]
        for number, group in enumerate(planned.groups):
            warm = f"{phase.warmup_epochs:g}" if phase.warmup_epochs and group.fresh else ""
            cells = [str(phase.number + 1), epochs] if not number else ["", ""]
            cells += [group.name, f"{group.rate:g}", f"{group.parameters:,}", warm]
            table.add_row(*cells, *(ends if not number else ["", ""]))
        total = f"{planned.trained:,} of {planned.parameters:,}"
        table.add_row("", "", "all trained", "", total)
        table.add_section()
    screen().print(table)


def _print_logged(plan: Plan) -> None:
    """Every tag of pictures, and how many pictures stand behind it at each look."""
    config = plan.config
    table = _table("logged at epoch 0 and after every epoch", "tag", "pictures")
    table.add_row("train/ val/ lr/ explain/", "scalars")
    for tag, count in plan.logged:
        table.add_row(tag, str(count))
    screen().print(table)
    share, floor = config.callbacks.budget, config.looking.seconds
    print(
        f"looking may cost {share:.0%} of an epoch, at least {floor:g} s; pictures also land in "
        f"{Path('<run_dir>') / 'explanations'}"
    )
