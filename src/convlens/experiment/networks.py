"""Load the network of a checkpoint, build one from a library, or wrap any other.

No code that only a config or a checkpoint names is imported: both may come from a stranger.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from convlens.config.checks import restore_config
from convlens.config.compose import compose
from convlens.config.folder import take_folder
from convlens.config.targets import is_target
from convlens.core.errors import UserError, convert_errors
from convlens.data.pixels.decode import Recipe, make_recipe
from convlens.experiment.explainer import Explainer
from convlens.experiment.exported import load_exported
from convlens.experiment.inputs import EXAMPLE_NAME, find_checkpoint, is_exported
from convlens.experiment.module import build_module
from convlens.explain.mode import device_of
from convlens.models import build_model, imagenet_classes
from convlens.models.adapters import merge_adapters
from convlens.models.normalise import build_normalisation
from convlens.models.timm_networks import read_timm_config
from convlens.training import ClassifierModule
from convlens.training.survival.checkpoint import read_checkpoint


def load(
    checkpoint: str | os.PathLike, *, device: str | None = None, words: Sequence[str] = (),
    temperature: bool = True,
) -> Explainer:  # fmt: skip
    """Load the network of a checkpoint that a convlens run wrote, ready to predict and explain.

    Args:
        checkpoint: ``best.ckpt`` or ``last.ckpt`` of a run, or an exported ``.onnx`` file.
        device: such as ``cuda``; None for the GPU if there is one. Exported files run on the CPU.
        words: the user-defined classes of the run, named again, such as
            ``model._target_=mine.Network``: code that only the file names is never run.
        temperature: False gives the probabilities of training, not the calibrated ones.

    Returns:
        The network with its class names.

    Raises:
        UserError: the file does not exist, or convlens did not write it.
    """
    if is_exported(file := Path(checkpoint).expanduser()):
        return load_exported(file, temperature=temperature)
    content = read_checkpoint(checkpoint)
    module = restore_module(content, str(checkpoint), words)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    merge_adapters(module.model)
    network = module.model.eval().to(device)
    with convert_build_errors(str(checkpoint)):
        recipe = make_recipe(module.data_config)
    thresholds = None if module.thresholds is None else module.thresholds.tolist()
    return Explainer(
        network, module.class_names, recipe, seed=module.seed, outputs="logits",
        thresholds=thresholds, calibration=module.calibrator.validation if temperature else None,
    )  # fmt: skip


def wrap(
    network: nn.Module, class_names: Sequence[str], size: int | tuple[int, int],
    normalisation: str | Sequence = "unit", *, channels: int = 3, resize: str = "squash",
    outputs: str = "auto",
) -> Explainer:  # fmt: skip
    """Wrap any network, ready to predict and explain; the network itself is not changed.

    Args:
        network: maps images ``(B, C, H, W)`` to logits.
        class_names: one for each logit, in their order; two for a network with one logit.
        size: side, or ``(H, W)``, of the network's images, in pixels.
        normalisation: ``unit`` (values stay in [0, 1]), ``symmetric`` ([-1, 1]), ``imagenet``, or
            ``(mean, std)``, each with one number per channel.
        channels: 3, or 1 for grey images.
        resize: ``squash``, ``crop`` or ``pad``; see ``convlens.data.pixels.decode.Recipe``.
        outputs: ``auto`` reads logits, taking them from before a final Softmax, LogSoftmax or
            Sigmoid module; ``probabilities`` means that the outputs are probabilities (or their
            logarithms) computed in another way, ``logits`` that they are not.

    Returns:
        The network with its class names.

    Raises:
        UserError: the number of names does not fit the outputs, the outputs look like probabilities
            and ``outputs`` is ``auto``, or the normalisation is unknown.
    """
    height, width = (size, size) if isinstance(size, int) else size
    recipe = Recipe(height, width, channels, resize)
    normalise = build_normalisation(normalisation, channels, None, "unit")
    return Explainer(network, class_names, recipe, normalise=normalise, outputs=outputs)


def load_network(
    ckpt: str | None, words: list[str], *, temperature: bool = True
) -> tuple[Explainer, str]:
    """Return the network that a command names, and a name for messages.

    Args:
        ckpt: a file, ``last`` for the best checkpoint of the newest run, or ``example`` for the
            network in the package.
        words: overrides. Without ``ckpt``, ``model=…`` with ``model.head=imagenet`` builds a
            network with its library's weights. With neither, the example network is loaded.
        temperature: see ``load``.

    Raises:
        UserError: the checkpoint does not exist, an override fits no key, or the network has no
            class names.
    """
    _, words = take_folder(words)
    repeated: list[str] = []
    if ckpt is not None:
        repeated = [word for word in words if is_target(word.partition("=")[0])]
        if stray := [word for word in words if word not in repeated]:
            raise UserError(f"{stray[0]}: a checkpoint contains its network; leave this word out")
    elif words:
        return _build_from_library(words)
    path = find_checkpoint(ckpt or EXAMPLE_NAME)
    is_example = ckpt in (None, EXAMPLE_NAME)
    name = "the example network, trained on shapes" if is_example else str(path)
    return load(path, words=repeated, temperature=temperature), name


def _build_from_library(words: list[str]) -> tuple[Explainer, str]:
    keys = [word.partition("=")[0] for word in words]
    if stray := [k for k in keys if k != "model" and not k.startswith(("model.", "data."))]:
        raise UserError(f"{stray[0]}: give ckpt=FILE, or model=… with model.head=imagenet")
    config = compose(words)
    if config.model.head != "imagenet":
        raise UserError(
            "without ckpt=FILE, a network has only its library's classes: add model.head=imagenet"
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
    checkpoint: dict[str, Any], where: str, words: Iterable[str] = ()
) -> ClassifierModule:
    """Return the network of a checkpoint, with its weights.

    Args:
        checkpoint: contents of a checkpoint, from ``read_checkpoint``.
        where: its file, for errors.
        words: overrides from the command line, which may repeat user-defined classes.

    Raises:
        UserError: no network can be built from its config, or the weights do not fit it.
    """
    parts = checkpoint["hyper_parameters"]
    config = restore_config(parts["config"], where, words)
    with convert_build_errors(where):
        module = build_module(config, parts["class_names"], pretrained=False)
        module.load_state_dict(checkpoint["state_dict"])
        module.calibrator.load(checkpoint)
    return module


def convert_build_errors(where: str) -> AbstractContextManager[None]:
    """Convert any exception inside into a ``UserError`` that names the file with the network.

    Single values have been checked before, but missing or contradictory keys can still raise any
    error while the network is built.

    Args:
        where: the file, for errors.

    Raises:
        UserError: an exception was raised inside; its traceback goes to the log.
    """
    return convert_errors(
        f"{where} does not describe a network that can be built", "was it modified?"
    )
