"""``make plan exp=NAME [key=value …]`` or ``make plan ckpt=FILE``: look before training."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from convlens import logs
from convlens.cli.results import screen
from convlens.cli.words import extract
from convlens.config import changed, compose
from convlens.config_checks import check_stored


def run(words: list[str]) -> int:
    logs.speak()
    asked, words = extract(words, "ckpt")
    if asked:
        from convlens.building import understood
        from convlens.cli.eval import checkpoint_path
        from convlens.training.checkpoint import read_checkpoint

        checkpoint = read_checkpoint(checkpoint_path(asked, None))
        stored = checkpoint["hyper_parameters"]
        check_stored(stored["config"], asked)
        config = changed(stored["config"], words)
        with understood(asked):
            _print_network(config, stored["class_names"])
        print(f"{asked}: after epoch {checkpoint['epoch'] + 1} of {config['experiment']}")
        return 0
    config = compose(words)
    from convlens.data.sources import pending_download
    from convlens.run import assemble, download_of_weights, warnings_of

    weights = download_of_weights(config)
    if weights:
        print(f"training would first download the weights: {weights}")
    download = pending_download(config["data"])
    if download:
        _print_network(config, download.class_names)
        print(
            f"training would first download data={config['data']['name']} "
            f"({download.megabytes} MB) into {download.folder}"
        )
        return 0
    assembled = assemble(config, pretrained=not weights)
    _print_data(config, assembled)
    _print_network(config, assembled.data.class_names)
    _print_training(config, assembled)
    if config["finetune"]["phases"]:
        _print_phases(assembled)
    for line in warnings_of(assembled):
        print(f"! {line}")
    _print_logged(config, assembled)
    return 0


def _table(title: str, *columns: str) -> Table:
    print(title)
    table = Table()
    for number, column in enumerate(columns):
        first = number == 0
        table.add_column(column, justify="left" if first else "right", no_wrap=first)
    return table


def _print_data(config: dict, run) -> None:
    """Pictures per class and split; a long list of classes is cut in the middle."""
    index = run.data.index
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


def _print_network(config: dict, class_names: list[str]) -> None:
    from convlens.models import layer_table
    from convlens.training import ClassifierModule

    module = ClassifierModule(config, list(class_names), pretrained=False)
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
        output = "×".join(map(str, row.output))
        table.add_row(row.path, row.kind, output, f"{row.parameters:,}", field)
    table.add_section()
    of_kind = sum(row.parameters for row in rows if row.kind == "Conv2d")
    table.add_row("convolutions", "", "", f"{of_kind:,}", "")
    table.add_row("all", "", "", f"{sum(row.parameters for row in rows):,}", "")
    screen().print(table)


def _print_training(config: dict, run) -> None:
    from convlens.run import measured_steps
    from convlens.training.precision import fastest

    training, optimizer = config["training"], config["optimizer"]
    pictures = int(run.data.index.counts["train"].sum())
    steps = training["steps_per_epoch"] or -(-pictures // training["batch_size"])
    augmented = "augmented" if run.data.augmentation.active else "not augmented"
    table = _table("training", "", "")
    table.add_row("epochs", f"{training['epochs']} of {steps} steps of {training['batch_size']}")
    table.add_row("pictures", augmented)
    table.add_row("loss", training["loss"])
    table.add_row("optimizer", _optimizer(optimizer, bool(config["finetune"]["phases"])))
    table.add_row("scheduler", config["scheduler"]["name"])
    seconds = measured_steps(run)
    precision = str(config["precision"])
    chosen = fastest(seconds) if precision == "auto" else precision
    run.config["precision"] = chosen
    table.add_row("precision", f"{chosen} ({precision})" if chosen != precision else precision)
    if chosen in seconds:
        stored = [p.epochs for p in run.module.schedule.phases if run.phases.cut(
            run.module, run.data, p)]  # fmt: skip
        whole = training["epochs"] - sum(stored)
        epoch = steps * seconds[chosen]
        more = f", besides {sum(stored)} on stored features" if stored else ""
        table.add_row(
            "estimated cost",
            f"{epoch:.0f} s an epoch end to end, {whole * epoch / 60:.1f} minutes for {whole} of "
            f"them{more} (timed here just now or earlier: {1000 * seconds[chosen]:.0f} ms a step)",
        )
    screen().print(table)


def _optimizer(spec: dict, phases: bool) -> str:
    return spec["name"] + ("" if phases else f", learning rate {spec['lr']:g}")


def _print_phases(run) -> None:
    """A row a group: epochs, rates, trained parameters, stored features or not."""
    schedule, model = run.module.schedule, run.module.model
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
    start = 1
    for phase in schedule.phases:
        last = start + phase.epochs - 1
        cut = run.phases.cut(run.module, run.data, phase)
        augmented = "yes" if phase.augment and run.data.augmentation.active else "no"
        until = f", until {phase.until.metric} rests {phase.until.patience}" if phase.until else ""
        for number, name in enumerate(phase.train):
            count = sum(sizes[parameter] for parameter in schedule.groups[name].parameters)
            warm = f"{phase.warmup_epochs:g}" if name in phase.fresh else ""
            cells = [str(phase.number + 1), f"{start}–{last}{until}"] if not number else ["", ""]
            ends = [augmented, f"behind {model.cut_name(cut)}" if cut else "no"]
            cells += [name, f"{phase.rates[name]:g}", f"{count:,}"]
            cells += [warm if phase.warmup_epochs else "", *(ends if not number else ["", ""])]
            table.add_row(*cells)
        trained = {p for name in phase.train for p in schedule.groups[name].parameters}
        total = sum(sizes[name] for name in trained)
        table.add_row("", "", "all trained", "", f"{total:,} of {sum(sizes.values()):,}")
        table.add_section()
        start = last + 1
    screen().print(table)


def _print_logged(config: dict, run) -> None:
    """Every tag of pictures, and how many pictures stand behind it at each look."""
    import torch

    example = torch.zeros(1, config["data"]["channels"], *[config["data"]["size"]] * 2)
    probes = len(config["probes"]["files"]) or config["probes"]["count"]
    table = _table("logged at epoch 0 and after every epoch", "tag", "pictures")
    table.add_row("train/ val/ lr/ explain/", "scalars")
    for callback in run.explanations:
        layers = callback.chosen(run.module.model, example)
        for tag, count in callback.plan(layers, probes).items():
            table.add_row(tag, str(count))
    screen().print(table)
    share, floor = config["callbacks"]["budget"], config["looking"]["seconds"]
    print(
        f"looking may cost {share:.0%} of an epoch, at least {floor:g} s; pictures also land in "
        f"{Path('<run_dir>') / 'explanations'}"
    )
