"""``make plan exp=NAME [key=value …]`` or ``make plan ckpt=FILE``: look before training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from convlens.cli.results import screen
from convlens.cli.words import extract
from convlens.config.checks import check_stored
from convlens.config.compose import changed, compose
from convlens.data.order import TrainingOrder
from convlens.rundir import log as logs

if TYPE_CHECKING:
    from convlens.callbacks import ExplanationCallback
    from convlens.data.sources.sources import Index
    from convlens.training import ClassifierModule
    from convlens.training.finetune.schedule import Phase

FEW = 4  # images of the pass that features are timed by


@dataclass(frozen=True)
class Plan:
    """What a config describes, as far as it is known before training.

    Attributes:
        config: resolved.
        module: the network with its schedule.
        explanations: the callbacks that look.
        index: the images; None where they are not on this machine yet.
        augmented: whether ``data.augment`` changes training images.
        cut: links of the backbone before the stored features of a phase; 0 for end to end.
    """

    config: dict
    module: ClassifierModule
    explanations: list[ExplanationCallback]
    index: Index | None
    augmented: bool
    cut: Callable[[Phase], int]


def run(words: list[str]) -> int:
    logs.speak()
    asked, words = extract(words, "ckpt")
    if asked:
        return _of_checkpoint(asked, words)
    config = compose(words)
    from convlens.data.sources.sources import pending_download
    from convlens.experiment.assemble import download_of_weights, warnings_of

    logs.hush()  # Lightning, imported by now, has given itself a screen
    weights = download_of_weights(config)
    if weights:
        print(f"training would first download the weights: {weights}")
    download = pending_download(config["data"])
    if download:
        print(
            f"training would first download data={config['data']['name']} "
            f"({download.megabytes} MB) into {download.folder}"
        )
        plan = _without_data(config, list(download.class_names))
    else:
        plan = _with_data(config, pretrained=not weights)
        _print_data(plan)
    _print_network(config, plan.module)
    _print_training(plan)
    if config["finetune"]["phases"]:
        _print_phases(plan)
    for line in warnings_of(config, plan.module):
        print(f"! {line}")
    _print_logged(plan)
    return 0


def _of_checkpoint(asked: str, words: list[str]) -> int:
    """The network of a checkpoint."""
    from convlens.experiment.checkpoints import checkpoint_path
    from convlens.experiment.restore import understood
    from convlens.training import ClassifierModule
    from convlens.training.survival.checkpoint import read_checkpoint

    path = checkpoint_path(asked, None)
    checkpoint = read_checkpoint(path)
    stored = checkpoint["hyper_parameters"]
    check_stored(stored["config"], str(path))
    config = changed(stored["config"], words)
    with understood(str(path)):
        names = list(stored["class_names"])
        _print_network(config, ClassifierModule(config, names, pretrained=False))
    print(f"{path}: after epoch {checkpoint['epoch'] + 1} of {config['experiment']}")
    return 0


def _with_data(config: dict, *, pretrained: bool) -> Plan:
    from convlens.experiment.assemble import assemble

    run = assemble(config, pretrained=pretrained)
    return Plan(
        config, run.module, run.explanations, run.data.index, run.data.augmentation.active,
        lambda phase: run.phases.cut(run.module, run.data, phase),
    )  # fmt: skip


def _without_data(config: dict, class_names: list[str]) -> Plan:
    """The plan of a run whose images are to be downloaded: all but their numbers."""
    from convlens.data.augment import Augmentation
    from convlens.experiment.assemble import explanations_of, settle
    from convlens.training import ClassifierModule
    from convlens.training.finetune.phases import cut_of

    if config["training"]["class_weights"] == "balanced":
        config["training"]["class_weights"] = None  # they follow from the numbers of images
    module = ClassifierModule(config, class_names, pretrained=False)
    settle(config, module)
    augmented = Augmentation(**config["data"]["augment"]).active

    def cut(phase: Phase) -> int:
        if config["cache_features"] == "never":
            return 0
        return cut_of(module.schedule, phase, module, augmented)[0]

    return Plan(config, module, explanations_of(config, module), None, augmented, cut)


def _table(title: str, *columns: str) -> Table:
    print(title)
    table = Table()
    for number, column in enumerate(columns):
        first = number == 0
        table.add_column(column, justify="left" if first else "right", no_wrap=first)
    return table


def _print_data(plan: Plan) -> None:
    """Pictures per class and split; a long list of classes is cut in the middle."""
    config, index = plan.config, plan.index
    table = _table(f"data: {config['data']['name']}", "class", *index.counts)
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


def _print_network(config: dict, module: ClassifierModule) -> None:
    from convlens.models import layer_table

    channels, size = config["data"]["channels"], config["data"]["size"]
    rows = layer_table(module.model, channels=channels, size=size)
    table = _table(
        f"network: {config['model']['name']}", "layer", "kind", "output", "parameters",
        "receptive field",
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
    from convlens.experiment.precision import batches_of

    config, training = plan.config, plan.config["training"]
    batch, _ = batches_of(config)
    steps = training["steps_per_epoch"]
    if steps is None and plan.index is not None:
        steps = len(TrainingOrder(int(plan.index.counts["train"].sum()), batch, seed=0))
    moves = "" if training["accumulate"] == 1 else f", {training['accumulate']} to an update"
    several = "one pass in steps" if steps is None else f"{steps} steps"
    table = _table("training", "", "")
    table.add_row("epochs", f"{training['epochs']} of {several} of {batch}{moves}")
    spans = plan.module.schedule.spans(plan.config["training"]["epochs"])
    acts = plan.augmented and any(phase.augment for phase, start, end in spans if start < end)
    table.add_row("pictures", "augmented" if acts else "not augmented")
    table.add_row("loss", training["loss"])
    phases = bool(config["finetune"]["phases"])
    table.add_row("optimizer", _optimizer(config["optimizer"], phases))
    table.add_row("scheduler", config["scheduler"]["name"])
    precision = _chosen_precision(plan)
    asked = str(config["precision"])
    table.add_row("precision", precision if precision == asked else f"{precision} ({asked})")
    for name, cost in _costs(plan, precision, steps):
        table.add_row(name, cost)
    screen().print(table)


def _chosen_precision(plan: Plan) -> str:
    """What the run would take; ``auto`` is measured as the run itself would measure it."""
    from convlens.experiment.precision import measured_steps
    from convlens.training.precision import fastest

    asked = str(plan.config["precision"])
    return fastest(measured_steps(plan.config, plan.module)) if asked == "auto" else asked


def _costs(plan: Plan, precision: str, steps: int | None) -> list[tuple[str, str]]:
    """A row a phase: what its epochs would take on this machine, training alone."""
    from convlens.experiment.precision import measured_steps

    if precision not in ("32", "bf16"):
        return []  # not timed
    module, rows = plan.module, []
    several = len(module.schedule.phases) > 1
    for phase, start, end in module.schedule.spans(plan.config["training"]["epochs"]):
        if start == end:
            continue
        if cut := plan.cut(phase):
            cost = f"{end - start} epochs on stored features{_features_cost(plan, cut)}"
        else:
            module.enter(phase)
            step = measured_steps(plan.config, module, (precision,))[precision]
            cost = f"{1000 * step:.0f} ms a step"
            if steps is not None:
                epoch = steps * step
                cost += (
                    f", {epoch:.0f} s an epoch, {(end - start) * epoch / 60:.1f} minutes for "
                    f"{end - start} of them"
                )
        which = f", phase {phase.number + 1}" if several else ""
        rows.append((f"estimated cost{which}", cost))
    module.enter(module.schedule.phases[0])
    note = "training alone, end to end, from a few steps on a few images, now or earlier"
    return [*rows, ("", note)]


def _features_cost(plan: Plan, cut: int) -> str:
    """What computing them takes, once; nothing where the number of images is not known."""
    import torch

    from convlens.experiment.precision import device_of
    from convlens.training.finetune.features import feature_seconds

    if plan.index is None:
        return ""
    data, model, device = plan.config["data"], plan.module.model, device_of(plan.config)
    images = torch.zeros(FEW, data["channels"], data["size"], data["size"], device=device)
    each = feature_seconds(model.to(device), cut, images)
    model.to("cpu")
    count = sum(int(plan.index.counts[split].sum()) for split in ("train", "validation"))
    return f", which take {each * count / 60:.1f} minutes if they are not stored yet"


def _optimizer(spec: dict, phases: bool) -> str:
    return spec["name"] + ("" if phases else f", learning rate {spec['lr']:g}")


def _print_phases(plan: Plan) -> None:
    """A row a group: epochs, rates, trained parameters, stored features or not."""
    schedule, model = plan.module.schedule, plan.module.model
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
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
    for phase, start, end in schedule.spans(plan.config["training"]["epochs"]):
        cut = plan.cut(phase)
        augmented = "yes" if phase.augment and plan.augmented else "no"
        until = f", until {phase.until.metric} rests {phase.until.patience}" if phase.until else ""
        epochs = f"{start + 1}–{end}{until}" if end > start else "none"
        for number, name in enumerate(phase.train):
            count = sum(sizes[parameter] for parameter in schedule.groups[name].parameters)
            warm = f"{phase.warmup_epochs:g}" if name in phase.fresh else ""
            cells = [str(phase.number + 1), epochs] if not number else ["", ""]
            ends = [augmented, f"behind {model.cut_name(cut)}" if cut else "no"]
            cells += [name, f"{phase.rates[name]:g}", f"{count:,}"]
            cells += [warm if phase.warmup_epochs else "", *(ends if not number else ["", ""])]
            table.add_row(*cells)
        trained = {p for name in phase.train for p in schedule.groups[name].parameters}
        total = sum(sizes[name] for name in trained)
        table.add_row("", "", "all trained", "", f"{total:,} of {sum(sizes.values()):,}")
        table.add_section()
    screen().print(table)


def _print_logged(plan: Plan) -> None:
    """Every tag of pictures, and how many pictures stand behind it at each look."""
    import torch

    config = plan.config
    example = torch.zeros(1, config["data"]["channels"], *[config["data"]["size"]] * 2)
    probes = len(config["probes"]["files"]) or config["probes"]["count"]
    table = _table("logged at epoch 0 and after every epoch", "tag", "pictures")
    table.add_row("train/ val/ lr/ explain/", "scalars")
    for callback in plan.explanations:
        layers = callback.chosen(plan.module.model, example)
        for tag, count in callback.plan(layers, probes).items():
            table.add_row(tag, str(count))
    screen().print(table)
    share, floor = config["callbacks"]["budget"], config["looking"]["seconds"]
    print(
        f"looking may cost {share:.0%} of an epoch, at least {floor:g} s; pictures also land in "
        f"{Path('<run_dir>') / 'explanations'}"
    )
