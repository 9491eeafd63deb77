"""``make plan exp=NAME [key=value …]`` or ``make plan ckpt=FILE``: look before training."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from convlens import logs
from convlens.cli.results import screen
from convlens.cli.words import extract
from convlens.config import changed, compose


def run(words: list[str]) -> int:
    logs.speak()
    asked, words = extract(words, "ckpt")
    if asked:
        from convlens.cli.eval import checkpoint_path
        from convlens.training.checkpoint import read_checkpoint

        checkpoint = read_checkpoint(checkpoint_path(asked, None))
        stored = checkpoint["hyper_parameters"]
        config = changed(stored["config"], words)
        _print_network(config, stored["class_names"])
        print(f"{asked}: after epoch {checkpoint['epoch'] + 1} of {config['experiment']}")
        return 0
    config = compose(words)
    from convlens.data.sources import pending_download
    from convlens.run import assemble

    download = pending_download(config["data"])
    if download:
        _print_network(config, download.class_names)
        print(
            f"training would first download data={config['data']['name']} "
            f"({download.megabytes} MB) into {download.folder}"
        )
        return 0
    assembled = assemble(config)
    _print_data(config, assembled)
    _print_network(config, assembled.data.class_names)
    _print_training(config, assembled)
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
    screen().print(table)
    for line in index.notes:
        print(f"! {line}")


def _print_network(config: dict, class_names: list[str]) -> None:
    from convlens.models import layer_table
    from convlens.training import ClassifierModule

    module = ClassifierModule(config, list(class_names))
    channels, size = config["data"]["channels"], config["data"]["size"]
    rows = layer_table(module.model, channels=channels, size=size)
    table = _table(
        f"network: {config['model']['name']}", "layer", "kind", "output", "parameters",
        "receptive field",
    )  # fmt: skip
    for row in rows:
        field = "whole picture" if row.receptive_field is None else f"{row.receptive_field} px"
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
    table.add_row("optimizer", f"{optimizer['name']}, learning rate {optimizer['lr']:g}")
    table.add_row("scheduler", config["scheduler"]["name"])
    seconds = measured_steps(run)
    precision = str(config["precision"])
    chosen = fastest(seconds) if precision == "auto" else precision
    table.add_row("precision", f"{chosen} ({precision})" if chosen != precision else precision)
    if chosen in seconds:
        epoch = steps * seconds[chosen]
        whole = epoch * training["epochs"] / 60
        table.add_row(
            "estimated cost",
            f"{epoch:.0f} s an epoch, {whole:.1f} minutes of training steps (timed here just now "
            f"or earlier: {1000 * seconds[chosen]:.0f} ms a step)",
        )
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
    share, floor = config["looking"]["share"], config["looking"]["seconds"]
    print(
        f"looking may cost {share:.0%} of an epoch, at least {floor:g} s; pictures also land in "
        f"{Path('<run_dir>') / 'explanations'}"
    )
