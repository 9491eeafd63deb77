"""A network to ask: of a checkpoint, of a library, or anybody's.

What a config or a checkpoint speaks of is built without obeying it: both may come from anybody.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from convlens.config.checks import replace_values, restore_config
from convlens.config.compose import compose
from convlens.config.folder import take_folder
from convlens.config.targets import is_target
from convlens.core.errors import UserError, convert_errors
from convlens.data.pixels.decode import Recipe, make_recipe
from convlens.experiment.explainer import Explainer
from convlens.experiment.inputs import EXAMPLE_NAME, find_checkpoint
from convlens.experiment.module import build_module
from convlens.explain.mode import device_of
from convlens.models import build_model, imagenet_classes
from convlens.models.normalise import build_normalisation as normalise_by
from convlens.models.timm_networks import read_timm_config
from convlens.training import ClassifierModule
from convlens.training.survival.checkpoint import read_checkpoint


def load(
    checkpoint: str | os.PathLike, *, device: str | None = None, words: Sequence[str] = ()
) -> Explainer:
    """The network of a checkpoint that a run of convlens wrote, ready to be asked.

    Args:
        checkpoint: ``best.ckpt`` or ``last.ckpt`` of a run.
        device: such as ``cuda``; None for the GPU if there is one.
        words: the classes of one's own that the run was made with, named again, such as
            ``model._target_=mine.Network``: no code that a file names is run.

    Raises:
        UserError: no such file, or not a checkpoint of convlens.
    """
    content = read_checkpoint(checkpoint)
    module = restore_module(content, str(checkpoint), words, compile=False)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    network = module.model.eval().to(device)
    with convert_build_errors(str(checkpoint)):
        recipe = make_recipe(module.data_config)
    return Explainer(network, module.class_names, recipe, seed=module.seed, outputs="logits")


def wrap(
    network: nn.Module, class_names: Sequence[str], size: int | tuple[int, int],
    normalisation: str | Sequence = "unit", *, channels: int = 3, resize: str = "squash",
    outputs: str = "auto",
) -> Explainer:  # fmt: skip
    """Any network, ready to be asked; no layer's name changes and nothing stays behind in it.

    Args:
        network: pictures ``(B, C, H, W)`` to logits.
        class_names: one for each logit, in their order; two for a network with one logit.
        size: side, or ``(H, W)``, of the pictures it takes, in pixels.
        normalisation: ``unit`` ([0, 1] as they are), ``symmetric`` ([-1, 1]), ``imagenet``, or
            ``(mean, std)`` with a number a channel each.
        channels: 3, or 1 for grey pictures.
        resize: ``squash``, ``crop`` or ``pad``; see :class:`convlens.data.pixels.decode.Recipe`.
        outputs: ``auto`` reads logits, and those before a final Softmax, LogSoftmax or Sigmoid
            module; ``probabilities`` says that the outputs are probabilities (or their logarithms)
            made in another way, ``logits`` that they are not.

    Raises:
        UserError: names that do not fit the outputs, outputs that look like probabilities where
            nothing is said, an unknown normalisation.
    """
    height, width = (size, size) if isinstance(size, int) else size
    recipe = Recipe(height, width, channels, resize)
    normalise = normalise_by(normalisation, channels, None, "unit")
    return Explainer(network, class_names, recipe, normalise=normalise, outputs=outputs)


def load_network(ckpt: str | None, words: list[str]) -> tuple[Explainer, str]:
    """The network that the words speak of, and what a person calls it.

    ``ckpt`` is a file, or ``last`` for the newest run's best; without it ``model=…`` with
    ``model.head=imagenet`` builds a network with its library's weights; with neither, or as
    ``example``, it is the one that comes with the package.

    Raises:
        UserError: no such checkpoint, a word that fits nothing, a network without classes.
    """
    _, words = take_folder(words)
    repeated: list[str] = []
    if ckpt is not None:
        repeated = [word for word in words if is_target(word.partition("=")[0])]
        if stray := [word for word in words if word not in repeated]:
            raise UserError(f"{stray[0]}: a checkpoint knows its own network; leave the word out")
    elif words:
        return _build_from_library(words)
    path = find_checkpoint(ckpt or EXAMPLE_NAME)
    example = ckpt in (None, EXAMPLE_NAME)
    name = "the example network, trained on shapes" if example else str(path)
    return load(path, words=repeated), name


def _build_from_library(words: list[str]) -> tuple[Explainer, str]:
    keys = [word.partition("=")[0] for word in words]
    if stray := [k for k in keys if k != "model" and not k.startswith(("model.", "data."))]:
        raise UserError(f"{stray[0]}: give ckpt=FILE, or model=… with model.head=imagenet")
    config = compose(words)
    if config.model.head != "imagenet":
        raise UserError(
            "without ckpt=FILE a network has only its library's classes: say model.head=imagenet"
        )
    name = config.model.name
    size, names = config.data.size, imagenet_classes()
    if "data.size" not in keys:
        size = 224 if name == "vgg16" else read_timm_config(name)["input_size"][-1]
    network = build_model(
        config.model, channels=3, size=size, outputs=len(names), class_names=names
    ).eval()
    recipe = make_recipe(config.data.replace(size=size, channels=3))
    explainer = Explainer(network, names, recipe, seed=config.seed, outputs="logits")
    return explainer, f"{name} with its ImageNet classes, on the {device_of(network)}"


def restore_module(
    checkpoint: dict[str, Any], where: str, words: Iterable[str] = (), **training: Any
) -> ClassifierModule:
    """The network of a checkpoint, with its weights.

    Args:
        checkpoint: as :func:`convlens.training.survival.checkpoint.read_checkpoint` gives it.
        where: its file, for messages.
        words: as typed; they may repeat a class of a person's own.
        training: keys of the config group ``training`` set anew, such as ``compile=False``.

    Raises:
        UserError: its config describes no network, or one that the weights do not fit.
    """
    told = checkpoint["hyper_parameters"]
    config = restore_config(told["config"], where, words)
    config = replace_values(config, {f"training.{key}": value for key, value in training.items()})
    with convert_build_errors(where):
        module = build_module(config, told["class_names"], pretrained=False)
        module.load_state_dict(checkpoint["state_dict"])
    return module


def convert_build_errors(where: str) -> AbstractContextManager[None]:
    """Around what is built from a file's config.

    The values were checked one by one; that a key is missing or two do not go together is told
    by the parts that are built from them, each in its own way.

    Raises:
        UserError: anything was raised meanwhile; the traceback goes to the log.
    """
    return convert_errors(
        f"{where} does not describe a network that can be built", "was it changed?"
    )
