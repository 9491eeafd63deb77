"""Which network a command asks, and which files it is asked about."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from convlens.core.errors import UserError
from convlens.data.index.folders import Walk
from convlens.data.index.names import spelt_on_disk
from convlens.experiment.checkpoints import EXAMPLE_NAME, checkpoint_path
from convlens.experiment.explainer import Explainer, load, recipe_of


def network_of(ckpt: str | None, words: list[str]) -> tuple[Explainer, str]:
    """The network that the words speak of, and what a person calls it.

    ``ckpt`` is a file, or ``last`` for the newest run's best; without it ``model=…`` with
    ``model.head=imagenet`` builds a network with its library's weights; with neither, or as
    ``example``, it is the one that comes with the package.

    Raises:
        UserError: no such checkpoint, a word that fits nothing, a network without classes.
    """
    if ckpt is not None:
        if words:
            raise UserError(f"{words[0]}: a checkpoint knows its own network; leave the word out")
    elif words:
        return _of_library(words)
    path = checkpoint_path(ckpt or EXAMPLE_NAME, None)
    example = ckpt in (None, EXAMPLE_NAME)
    return load(path), "the example network, trained on shapes" if example else str(path)


def _of_library(words: list[str]) -> tuple[Explainer, str]:
    from convlens.config.compose import compose
    from convlens.explain.taps import device_of
    from convlens.models import build_model, imagenet_classes
    from convlens.models.timm_networks import input_of

    keys = [word.partition("=")[0] for word in words]
    if stray := [k for k in keys if k != "model" and not k.startswith(("model.", "data."))]:
        raise UserError(f"{stray[0]}: give ckpt=FILE, or model=… with model.head=imagenet")
    config = compose(words)
    if config["model"]["head"] != "imagenet":
        raise UserError(
            "without ckpt=FILE a network has only its library's classes: say model.head=imagenet"
        )
    name = config["model"]["name"]
    if "data.size" not in keys:
        size = 224 if name == "vgg16" else input_of(name)["input_size"][-1]
        config["data"]["size"] = size
    names = imagenet_classes()
    network = build_model(
        config["model"], channels=3, size=config["data"]["size"], outputs=len(names),
        class_names=names,
    ).eval()  # fmt: skip
    config["data"]["channels"] = 3
    explainer = Explainer(
        network, names, recipe_of(config["data"]), seed=config["seed"], outputs="logits"
    )
    return explainer, f"{name} with its ImageNet classes, on the {device_of(network)}"


def walk_from(given: str) -> Walk:
    """A walk from the file or folder that a person names, in letters composed or not."""
    return Walk(spelt_on_disk(Path(given).expanduser()))


def picture_files(walk: Walk) -> Iterator[Path]:
    """The picture files that a path, the root of ``walk``, names: itself, or those below it.

    Found as a data set's are: sorted, whatever their names; ``walk`` counts what was passed over.

    Raises:
        UserError: nothing is there.
    """
    path = walk.root
    if path.is_file():
        yield path
        return
    if not path.is_dir():
        raise UserError(f"there is no file or folder {path}: give the path of a picture")
    found = False
    for file in walk.pictures(path):
        found = True
        yield file
    if not found:
        only = f", only {walk.left_out()}" if walk.unused else ""
        raise UserError(f"no pictures in {path}{only}: JPEG or PNG files are expected")
