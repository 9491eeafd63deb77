"""Predict and explain images with a trained network.

Shapes: ``B`` images, ``C`` channels, ``H W`` image size, ``K`` classes.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from convlens.core.errors import UserError, nearest
from convlens.core.photograph import Photograph
from convlens.core.progress import Work
from convlens.data.index.names import find_name
from convlens.data.pixels.decode import Recipe, decode_image
from convlens.data.pixels.load import pillow_settings
from convlens.data.pixels.photograph import convert_photograph, make_photograph, read_photograph
from convlens.experiment.explanation import Explanation
from convlens.experiment.inputs import name_source
from convlens.experiment.methods import (
    add_explanation,
    choose_methods,
    count_left_out,
    draw_filter_panels,
)
from convlens.explain.grad_cam import probabilities
from convlens.explain.mode import add_preprocessing, device_of, explaining, prepare_images
from convlens.explain.outputs import answering, check_outputs
from convlens.training.calibration import Calibration

log = logging.getLogger("convlens")

ImageLike = str | os.PathLike | Image.Image | np.ndarray | Tensor


class Explainer:
    """A network with its class names and preprocessing.

    Args:
        network: maps images ``(B, C, H, W)`` to logits ``(B, K)`` or ``(B, 1)``; it stays on its
            device, and is in evaluation mode only during calls.
        class_names: ``K`` different names; two for a network with one logit.
        recipe: how an image file becomes an array ``(H, W, C)`` of the network's size.
        normalise: maps images in [0, 1] to the network's inputs; None if the network itself does.
        seed: seed of explanations that draw random numbers.
        outputs: ``auto``, ``logits`` or ``probabilities``; see
            ``convlens.explain.outputs.OutputReader``.
        thresholds: ``K`` probabilities from which each class counts as predicted, if an image may
            have several classes, whose probabilities are then independent; None if it has one.
        calibration: from validation; None for probabilities as the network gives them.

    Attributes:
        network: as given.
        class_names: as given, a tuple.
        recipe: as given.
        thresholds: as given, a tensor.
        calibration: as given.
        temperature: ``probabilities`` divides the logits by it. Maps explain the undivided logits.
        note: how the outputs are read if they are not logits; otherwise None.

    Raises:
        UserError: the names do not fit the outputs, or the outputs cannot be read.
    """

    def __init__(
        self, network: nn.Module, class_names: Sequence[str], recipe: Recipe, *,
        normalise: nn.Module | None = None, seed: int = 0, outputs: str = "auto",
        thresholds: Sequence[float] | None = None, calibration: Calibration | None = None,
    ):  # fmt: skip
        self.network, self.class_names, self.recipe = network, tuple(class_names), recipe
        self.seed, self._normalise, self._outputs = seed, normalise, outputs
        self.thresholds = None if thresholds is None else torch.tensor(thresholds)
        self.calibration = calibration
        self.temperature = 1.0 if calibration is None else calibration.temperature
        repeated = [name for name, count in Counter(self.class_names).items() if count > 1]
        if repeated:
            raise UserError(
                f"the class name {repeated[0]!r} is given several times: "
                f"give each class its own name"
            )
        if normalise is not None:
            normalise.to(device_of(network))
        self.note = self._check()
        if self.note:
            log.info(self.note)

    def _check(self) -> str | None:
        """Check the outputs in one pass; return a note on how they are read, or None."""
        images = torch.rand(2, *self.shape, generator=torch.Generator().manual_seed(0))
        with self._prepare_network(check_classes=False), explaining(self.network):
            logits, note = check_outputs(self.network, prepare_images(self.network, images))
        classes = max(2, logits.shape[1])
        if classes != len(self.class_names):
            raise UserError(
                f"the network has {classes} classes, but {len(self.class_names)} names were given: "
                f"give one name for each class, in the order of the logits"
            )
        return note

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of the network's images."""
        return self.recipe.channels, self.recipe.height, self.recipe.width

    def read(self, picture: ImageLike) -> Tensor:
        """Return an image as the network gets it before normalisation: ``(C, H, W)`` in [0, 1].

        Args:
            picture: a file; a Pillow image; an array ``(H, W)`` or ``(H, W, C)`` uint8; or a
                tensor ``(C, H, W)`` in [0, 1], which is only resized.

        Raises:
            UserError: the file cannot be decoded.
            ValueError: an array or tensor has another shape or type.
        """
        if not isinstance(picture, str | os.PathLike):
            return self._read_both(picture)[0]
        with pillow_settings():
            return self.decode(Path(picture).expanduser())

    def _read_both(self, picture: ImageLike) -> tuple[Tensor, Photograph]:
        """Return an image as ``read`` does, and at its own proportions.

        A tensor has no proportions but those of the network's image.
        """
        if isinstance(picture, Tensor):
            image = self._resize(picture)
            return image, make_photograph(image)
        if isinstance(picture, np.ndarray):
            if picture.dtype != np.uint8:
                raise ValueError(f"arrays are uint8 (H, W) or (H, W, C), not {picture.dtype}")
            picture = Image.fromarray(picture)
        if isinstance(picture, Image.Image):
            pixels, photograph = convert_photograph(picture, self.recipe)
            return _to_tensor(pixels), photograph
        file = Path(picture).expanduser()
        with pillow_settings():
            return self.decode(file), read_photograph(file, self.recipe)

    def decode(self, file: Path) -> Tensor:
        """Return an image file as ``read`` does; ``pillow_settings`` must be active.

        Args:
            file: the image file.

        Raises:
            ImageError: the file cannot be decoded.
        """
        return _to_tensor(decode_image(file, self.recipe))

    def _resize(self, picture: Tensor) -> Tensor:
        channels, height, width = self.shape
        if picture.dim() != 3 or len(picture) not in (1, channels):
            raise ValueError(f"tensors are ({channels}, H, W), not {tuple(picture.shape)}")
        picture = picture.detach().float().expand(channels, -1, -1)
        if tuple(picture.shape) == self.shape:
            return picture
        size = (height, width)
        return F.interpolate(picture[None], size=size, mode="bilinear", antialias=True)[0]

    def probabilities(self, pictures: Tensor) -> Tensor:
        """Return the probabilities ``(B, K)``, on the CPU, of images ``(B, C, H, W)`` in [0, 1]."""
        with self._prepare_network(), explaining(self.network), torch.no_grad():
            logits = self.network(prepare_images(self.network, pictures.contiguous()))
            if self.temperature != 1:
                logits = logits / self.temperature
            return (probabilities(logits) if self.thresholds is None else logits.sigmoid()).cpu()

    def list_predicted(self, probabilities: Tensor) -> list[int]:
        """Return the predicted classes of an image, the most probable first.

        If an image may have several: those from their threshold on, which may be none.

        Args:
            probabilities: ``(K,)``.
        """
        if self.thresholds is None:
            return [int(probabilities.argmax())]
        order = probabilities.argsort(descending=True, stable=True).tolist()
        return [k for k in order if probabilities[k] >= self.thresholds[k]]

    def explain(
        self, picture: ImageLike, *, target: str | None = None,
        only: str | Sequence[str] | None = None, name: str | None = None,
        layers: str | Sequence[str] = "auto", work: Work | None = None,
    ) -> Explanation:  # fmt: skip
        """Explain the most probable classes of an image.

        Args:
            picture: see ``read``.
            target: the class to explain: its name, None for the predicted one (or all of
                them), or ``top3`` (or any number) for that many of the most probable.
            only: some of ``grad_cam, occlusion, superpixels, activations, filters``, for
                transformers ``legrad, relevance, attention, rollout, token_occlusion, attn_lrp``,
                or any attribution method of Captum (``integrated_gradients``), as a list or text
                with commas; None for ``convlens.experiment.methods.DEFAULT``.
            name: name of the image; defaults to the name of its file.
            layers: layers for Grad-CAM, activations and filters: names or patterns, as a list or
                text with commas; ``auto`` for the default of each. See
                ``convlens.explain.choose_layers``.
            work: shows how many methods are done, for commands.

        Returns:
            Probabilities, maps and panels.

        Raises:
            UserError: the file cannot be decoded; a class, method or layer is unknown; a layer has
                no maps; or ``only`` names a method that cannot explain the network.
        """
        methods = choose_methods(only)
        layers = _split_patterns(layers)
        image, photograph = self._read_both(picture)
        probabilities = self.probabilities(image[None])[0]
        targets = self._choose_targets(target, probabilities)
        source = name_source(picture) if isinstance(picture, str | os.PathLike) else ""
        if name is None:
            name = Path(source).stem if source else "picture"
        explanation = Explanation(
            name,
            source,
            image,
            photograph,
            self.class_names,
            probabilities,
            tuple(targets),
            predicted=tuple(self.list_predicted(probabilities)),
        )
        if self.note:
            explanation.notes.append(self.note)
        work = work or Work()
        work.begin(total=len(methods))
        with self._prepare_network():
            for method in methods:
                work.rename(method.replace("_", " "))
                self._add(method, explanation, layers, is_named=only is not None)
                work.advance()
        return explanation

    def _add(
        self, method: str, explanation: Explanation, layers: str | list[str], is_named: bool
    ) -> None:
        """Add the maps, panels and notes of one method; the network is prepared."""
        add_explanation(
            method, self.network, explanation, layers, is_named=is_named, seed=self.seed
        )

    def filters(
        self,
        layers: str | Sequence[str] = "auto",
        *,
        pictures: Sequence[ImageLike] = (),
        work: Work | None = None,
    ) -> dict[str, np.ndarray]:
        """Draw the filters of layers; no image is needed.

        Convolutions that read the image itself are shown by their kernels; units of other
        convolutions and of dense layers by images that excite them most, found by gradient ascent.

        Args:
            layers: see ``explain``; the layers must be convolutions or dense layers.
            pictures: see ``read``: the units that matter most for the predictions on them are
                shown. If there are none, the units are evenly spread over a layer.
            work: shows how many layers are done, for commands.

        Returns:
            Panels, uint8 ``(H, W, 3)``, by tag ``layers/filters/<layer>``.

        Raises:
            UserError: a layer is unknown, or neither a convolution nor a dense layer.
        """
        names, layers = self.class_names, _split_patterns(layers)
        images = torch.stack([self.read(each) for each in pictures]) if pictures else None
        with self._prepare_network():
            return draw_filter_panels(
                self.network,
                self.shape,
                names,
                layers,
                images=images,
                seed=self.seed,
                work=work,
            )

    def describe_left_out(self, methods: Sequence[str]) -> str:
        """Return which layers are not drawn if none are named, in one line; '' if all are."""
        with self._prepare_network():
            missing = count_left_out(self.network, self.shape, methods)
        counts = [
            f"{method} of {count} layer{'s' if count > 1 else ''}"
            for method, count in missing.items()
        ]
        return f"{' and '.join(counts)}; layers=* draws all" if counts else ""

    def _choose_targets(self, target: str | None, probabilities: Tensor) -> list[int]:
        if target is None:
            return self.list_predicted(probabilities) or [int(probabilities.argmax())]
        if (number := find_name(target, self.class_names)) is not None:
            return [number]
        count = target.removeprefix("top")
        if target.startswith("top") and count.isdigit() and int(count):
            return probabilities.topk(min(int(count), len(probabilities))).indices.tolist()
        raise UserError(f"target={target}: no such class; {nearest(target, self.class_names)}")

    @contextmanager
    def _prepare_network(self, *, check_classes: bool = True) -> Iterator[None]:
        """Make the network map images in [0, 1] to logits inside the context."""
        normalise, classes = self._normalise, len(self.class_names) if check_classes else None
        inputs = nullcontext() if normalise is None else add_preprocessing(self.network, normalise)
        with inputs, answering(self.network, self._outputs, classes):
            yield


def _to_tensor(pixels: np.ndarray) -> Tensor:
    """Convert ``(H, W, C)`` uint8 to ``(C, H, W)`` in [0, 1]."""
    # contiguous: a network that flattens with `view` fails on images in channels-last order
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().contiguous() / 255


def _split_patterns(layers: str | Sequence[str]) -> str | list[str]:
    """Return layers, a list or text with commas, in the form that ``choose_layers`` accepts."""
    patterns = layers.strip("[]").split(",") if isinstance(layers, str) else list(layers)
    patterns = [each.strip() for each in patterns if each.strip()]
    return "auto" if patterns == ["auto"] or not patterns else patterns
