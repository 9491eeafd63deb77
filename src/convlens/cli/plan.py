"""``make plan exp=NAME [key=value …]``: show what a run would do, or the layers of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from convlens.cli.results import right, screen, whole
from convlens.cli.words import RECIPE, Keys, Word, Words, extract_words
from convlens.config.compose import compose
from convlens.config.schema import get_name
from convlens.core.loading import loading_libraries
from convlens.core.progress import progress_bar
from convlens.rundir import log as logs

MOMENTS = ("start", "epoch", "end", "test")

if TYPE_CHECKING:
    from convlens.experiment.plan import Plan, PlannedPhase
    from convlens.models.layers import LayerRow


WORDS: Words = {
    **RECIPE,
    "ckpt": Word(
        "list the layers of this checkpoint instead; last is the newest run's best one",
        form="FILE",
    ),
}  # fmt: skip
KEYS = Keys()


def run(words: list[str]) -> int:
    values, overrides = extract_words(words, WORDS)
    if values["ckpt"]:
        return _plan_checkpoint(values["ckpt"], overrides)
    config = compose(overrides)
    with loading_libraries():
        from convlens.experiment.plan import plan

    logs.silence_libraries()  # Lightning has added its own handler on import
    with progress_bar("measuring what the run costs"):
        planned = plan(config)
    download = "training would first download"
    if planned.weights:
        print(f"{download} the weights: {planned.weights}")
    if (pending := planned.download) is None:
        _print_data(planned)
    else:
        print(f"{download} data={config.data.name} ({pending.megabytes} MB) into {pending.folder}")
    _print_network(config.model.name, planned.layers)
    _print_training(planned)
    if config.finetune.phases:
        _print_phases(planned.phases)
    for line in planned.warnings:
        print(f"! {line}")
    _print_logged(planned)
    return 0


def _plan_checkpoint(name: str, overrides: list[str]) -> int:
    """Print the layers of a checkpoint's network."""
    from convlens.experiment.inputs import find_checkpoint
    from convlens.experiment.plan import plan_network

    path = find_checkpoint(name)
    layers, config, epochs = plan_network(path, overrides)
    _print_network(config.model.name, layers)
    print(f"{path}: after epoch {epochs} of {config.experiment}")
    return 0


def _table(title: str, first: str, *columns: str) -> Table:
    print(title)
    return Table(whole(first), *map(right, columns))


def _print_data(plan: Plan) -> None:
    index = plan.index
    table = _table(f"data: {plan.config.data.name}", "class", *index.counts)
    rows = [
        (name, *(str(counts[number]) for counts in index.with_class.values()))
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
    columns = ("layer", "kind", "output", "parameters", "receptive field")
    table = _table(f"network: {name}", *columns)
    for row in rows:
        field = f"{row.receptive_field} px"
        if row.receptive_field is None:  # not computed after branches
            field = "whole image" if row.path.startswith("head.") else ""
        output = "×".join(map(str, row.output or ()))
        table.add_row(row.path, row.kind, output, f"{row.parameters:,}", field)
    table.add_section()
    convolutions = [row for row in rows if row.convolution]
    for name, counted in (("convolutions", convolutions), ("all", rows)):
        table.add_row(name, "", "", f"{sum(row.parameters for row in counted):,}", "")
    screen().print(table)


def _print_training(plan: Plan) -> None:
    config, training = plan.config, plan.config.training
    update = "" if training.accumulate == 1 else f", {training.accumulate} steps per update"
    epoch = "one pass in steps" if plan.steps is None else f"{plan.steps} steps"
    rate = "" if config.finetune.phases else f", learning rate {config.optimizer.lr:g}"
    is_augmented = any(phase.is_augmented for phase in plan.trained_phases)
    changes = "augmented" if is_augmented else "not augmented"
    drawn = ""
    if training.sampler == "balanced":
        several = config.data.has_several_classes
        drawn = (
            "a class drawn, then one of its images"
            if several
            else "all classes drawn equally often"
        )
    requested = str(config.precision)
    rows = {
        "epochs": f"{training.epochs}, each {epoch} of {plan.batch} images{update}",
        "images": ", ".join(filter(None, [changes, drawn, plan.images])),
        "loss": training.loss,
        "optimizer": get_name(config.optimizer) + rate,
        "scheduler": get_name(config.scheduler),
        "precision": plan.precision + (f" ({requested})" if requested != plan.precision else ""),
        "compile": plan.compile,
    }
    if training.ema is not None or training.swa is not None:
        from convlens.experiment.announce import describe_average  # as slow to import as the plan

        rows["average"] = describe_average(config)
    timed = plan.trained_phases if plan.is_timed else []
    for planned in timed:
        phase = f", phase {planned.phase.number + 1}" if len(plan.phases) > 1 else ""
        rows[f"estimated cost{phase}"] = _cost_text(planned, plan.steps)
    if timed:
        rows[""] = "training only, end to end; estimated from a few steps, timed now or earlier"
    table = _table("training", "", "")
    for row in rows.items():
        table.add_row(*row)
    screen().print(table)


def _cost_text(planned: PlannedPhase, steps: int | None) -> str:
    """Return the estimated cost of a phase; the minutes only if the steps per epoch are known."""
    epochs, step, features = planned.epochs, planned.step_seconds, planned.feature_seconds
    duration = "1 epoch" if epochs == 1 else f"{epochs} epochs"
    if step is None:
        text = f"{duration} on stored features"
        if features is None:
            return text
        return f"{text}; computing them takes {features / 60:.1f} minutes, unless already stored"
    text = f"{1000 * step:.0f} ms per step"
    if steps is None:
        return text
    epoch = steps * step
    minutes = epochs * epoch / 60
    return f"{text}, {epoch:.0f} s per epoch, {minutes:.1f} minutes for {duration}"


def _print_phases(phases: Sequence[PlannedPhase]) -> None:
    """Print a row per group: epochs, rates, trained parameters, whether features are stored."""
    columns = "phase,epochs,group,rate,parameters,warm-up epochs,augmented,stored"
    table = _table("phases", *columns.split(","))
    for planned in phases:
        phase = planned.phase
        until = (
            f", or until {phase.until.metric} has not improved for {phase.until.patience} epochs"
            if phase.until
            else ""
        )
        epochs = f"{planned.start + 1}–{planned.end}{until}" if planned.epochs else "none"
        stored = f"after {planned.stored_layer}" if planned.stored_layer else "no"
        first = [str(phase.number + 1), epochs], ["yes" if planned.is_augmented else "no", stored]
        for group in planned.groups:
            warm = f"{phase.warmup_epochs:g}" if phase.warmup_epochs and group.fresh else ""
            cells = [group.name, f"{group.rate:g}", f"{group.parameters:,}", warm]
            table.add_row(*first[0], *cells, *first[1])
            first = ["", ""], ["", ""]
        total = f"{planned.trained:,} of {planned.parameters:,}"
        table.add_row("", "", "all trained", "", total)
        table.add_section()
    screen().print(table)


def _print_forecast(plan: Plan) -> None:
    """Print what of each explanation there is time for, in the order in which they look."""
    if (forecast := plan.forecast) is None:
        return
    columns = ("before training", "after each epoch", "at the end", "after the test")
    table = _table("looks, by estimate, in the order of worth", "", *columns)
    table.add_row("allowed, together", *(_format_allowed(forecast.allowed[m]) for m in MOMENTS))
    table.add_section()
    for kind, cells in forecast.cells.items():
        table.add_row(kind, *(cells.get(moment, "") for moment in MOMENTS))
    screen().print(table)
    if any(" of " in cells.get("epoch", "") for cells in forecast.cells.values()):
        print("what does not fit after an epoch is drawn after the next ones, in turn")
    print(f"a forward pass of one image takes {1000 * forecast.pass_seconds:.0f} ms")
    for planned in plan.trained_phases:
        seconds = plan.estimate_epoch_seconds(planned)
        phase = f" of phase {planned.phase.number + 1}" if len(plan.phases) > 1 else ""
        epoch = "an epoch" if seconds is None else f"an epoch of about {seconds:.3g} s"
        allowed = _format_allowed(plan.ledger.allow(seconds or 0.0))
        least = " or more" if seconds is None else ""
        print(f"after {epoch}{phase} the looks may take {allowed}{least}")


def _format_allowed(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < float("inf") else "any time"


def _print_logged(plan: Plan) -> None:
    """Print every tag of pictures, with the number of pictures that each explanation logs."""
    table = _table("logged at epoch 0 and after every epoch", "tag", "pictures")
    table.add_row("train/ val/ lr/ explain/", "scalars")
    for tag, count in plan.tags:
        table.add_row(tag, str(count))
    screen().print(table)
    _print_forecast(plan)
    print(f"pictures are also written to {Path('<run_dir>') / 'explanations'}")
