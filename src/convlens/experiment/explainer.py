"""A trained network and everything that can be asked of it: classes, maps, panels.

Shapes: ``B`` pictures, ``C`` channels, ``H W`` picture size, ``K`` classes.
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
from convlens.data.index.names import find_name
from convlens.data.pixels.decode import Recipe, convert_image, decode_image
from convlens.data.pixels.load import pillow_settings
from convlens.experiment.methods import (
    Explanation,
    add_explanation,
    choose_methods,
    draw_filter_panels,
)
from convlens.explain.grad_cam import probabilities
from convlens.explain.mode import add_preprocessing, device_of, explaining, prepare_images
from convlens.explain.outputs import answering, check_outputs

log = logging.getLogger("convlens")

PictureLike = str | os.PathLike | Image.Image | np.ndarray | Tensor


class Explainer:
    """A network with its class names and the way pictures come to it.

    Args:
        network: pictures ``(B, C, H, W)`` to logits ``(B, K)`` or ``(B, 1)``; used as it is and
            where it is, in evaluation mode while it is asked.
        class_names: ``K`` different names; a one-logit network has two.
        recipe: how a picture file becomes the network's ``(H, W, C)``.
        normalise: from pictures in [0, 1] to what the network takes; None where it does so itself.
        seed: of explanations that draw random numbers.
        outputs: ``auto``, ``logits`` or ``probabilities``; see
            :class:`convlens.explain.outputs.OutputReader`.

    Attributes:
        network, class_names, recipe: as given.
        note: how the outputs are read, where they are no logits; else None.

    Raises:
        UserError: names that do not fit the outputs, or outputs that cannot be read.
    """

    def __init__(
        self, network: nn.Module, class_names: Sequence[str], recipe: Recipe, *,
        normalise: nn.Module | None = None, seed: int = 0, outputs: str = "auto",
    ):  # fmt: skip
        self.network, self.class_names, self.recipe = network, tuple(class_names), recipe
        self.seed, self._normalise, self._outputs = seed, normalise, outputs
        twice = [name for name, count in Counter(self.class_names).items() if count > 1]
        if twice:
            raise UserError(
                f"the class name {twice[0]!r} is given {self.class_names.count(twice[0])} times: "
                f"give each class its own name"
            )
        if normalise is not None:
            normalise.to(device_of(network))
        self.note = self._check()
        if self.note:
            log.info(self.note)

    def _check(self) -> str | None:
        """What is to be said of the outputs, from one pass; UserError where they do not fit."""
        images = torch.rand(2, *self.shape, generator=torch.Generator().manual_seed(0))
        with self._asked(checked=False), explaining(self.network):
            logits, note = check_outputs(self.network, prepare_images(self.network, images))
        classes = max(2, logits.shape[1])
        if classes != len(self.class_names):
            raise UserError(
                f"the network tells {classes} classes apart, but {len(self.class_names)} names "
                f"were given: give one name for each, in the order of the logits"
            )
        return note

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of a picture."""
        return self.recipe.channels, self.recipe.height, self.recipe.width

    def read(self, picture: PictureLike) -> Tensor:
        """A picture as the network sees it before normalisation: ``(C, H, W)`` in [0, 1].

        Args:
            picture: a file; a Pillow image; an array ``(H, W)`` or ``(H, W, C)`` uint8; or a
                tensor ``(C, H, W)`` in [0, 1], which is only resized.

        Raises:
            UserError: a file that gives no picture.
            ValueError: an array or tensor of another shape or type.
        """
        if isinstance(picture, Tensor):
            return self._resized(picture)
        if isinstance(picture, np.ndarray):
            if picture.dtype != np.uint8:
                raise ValueError(f"arrays are uint8 (H, W) or (H, W, C), not {picture.dtype}")
            picture = Image.fromarray(picture)
        if isinstance(picture, Image.Image):
            return _as_tensor(convert_image(picture, self.recipe))
        with pillow_settings():
            return self.decode(Path(picture).expanduser())

    def decode(self, file: Path) -> Tensor:
        """A picture file as :meth:`read` gives it, within Pillow's settings of many threads.

        Raises:
            ImageError: the file gives no picture.
        """
        return _as_tensor(decode_image(file, self.recipe))

    def _resized(self, picture: Tensor) -> Tensor:
        channels, height, width = self.shape
        if picture.dim() != 3 or len(picture) not in (1, channels):
            raise ValueError(f"tensors are ({channels}, H, W), not {tuple(picture.shape)}")
        picture = picture.detach().float().expand(channels, -1, -1)
        if tuple(picture.shape) == self.shape:
            return picture
        size = (height, width)
        return F.interpolate(picture[None], size=size, mode="bilinear", antialias=True)[0]

    def probabilities(self, pictures: Tensor) -> Tensor:
        """``(B, K)`` in [0, 1] of pictures ``(B, C, H, W)`` in [0, 1]; on the CPU."""
        with self._asked(), explaining(self.network), torch.no_grad():
            return probabilities(
                self.network(prepare_images(self.network, pictures.contiguous()))
            ).cpu()

    def explain(
        self, picture: PictureLike, *, target: str | None = None,
        only: str | Sequence[str] | None = None, name: str | None = None,
        layers: str | Sequence[str] = "auto",
    ) -> Explanation:  # fmt: skip
        """The likeliest classes of a picture and every explanation of them.

        Args:
            picture: see :meth:`read`.
            target: None explains the likeliest class, the name of a class that one, ``top3`` (or
                any number) so many of the likeliest.
            only: some of ``grad_cam, occlusion, superpixels, activations, filters``, or any
                attribution method of Captum (``integrated_gradients``); None for
                :data:`convlens.experiment.methods.DEFAULT`.
            name: of the picture; a file has its own.
            layers: whose Grad-CAM, activations and filters are shown: names or patterns, a list or
                text with commas; ``auto`` for what each of them shows by default. See
                :func:`convlens.explain.choose_layers`.

        Raises:
            UserError: a file that gives no picture, an unknown class, method or layer, a layer that
                has no maps, Grad-CAM asked for by name of a network that has no feature map.
        """
        wanted = choose_methods(only)
        layers = _patterns(layers)
        image = self.read(picture)[None]
        shares = self.probabilities(image)[0]
        targets = self._targets(target, shares)
        if name is None:
            name = Path(picture).stem if isinstance(picture, str | os.PathLike) else "picture"
        found = Explanation(name, image[0], self.class_names, shares, tuple(targets))
        if self.note:
            found.notes.append(self.note)
        with self._asked():
            for method in wanted:
                add_explanation(
                    method, self.network, found, layers, named=only is not None, seed=self.seed
                )
        return found

    def filters(self, layers: str | Sequence[str] = "auto") -> dict[str, np.ndarray]:
        """``filters/<layer>`` -> its panel, uint8 ``(H, W, 3)``; no picture is needed.

        The kernels of convolutions that read the image itself; of deeper convolutions and of dense
        layers images that excite single units most, found by gradient ascent.

        Args:
            layers: see :meth:`explain`; a name here means a convolution or a dense layer.

        Raises:
            UserError: an unknown layer, or one that is neither a convolution nor dense.
        """
        names, layers = self.class_names, _patterns(layers)
        with self._asked():
            return draw_filter_panels(self.network, self.shape, names, layers, seed=self.seed)

    def _targets(self, target: str | None, shares: Tensor) -> list[int]:
        if target is None:
            return shares.topk(1).indices.tolist()
        if (place := find_name(target, self.class_names)) is not None:
            return [place]
        count = target.removeprefix("top")
        if target.startswith("top") and count.isdigit() and int(count):
            return shares.topk(min(int(count), len(shares))).indices.tolist()
        raise UserError(f"target={target}: no such class; {nearest(target, self.class_names)}")

    @contextmanager
    def _asked(self, *, checked: bool = True) -> Iterator[None]:
        """The network takes pictures in [0, 1] and gives logits while this lasts."""
        normalise, classes = self._normalise, len(self.class_names) if checked else None
        fed = nullcontext() if normalise is None else add_preprocessing(self.network, normalise)
        with fed, answering(self.network, self._outputs, classes):
            yield


def _as_tensor(pixels: np.ndarray) -> Tensor:
    """``(C, H, W)`` in [0, 1] of ``(H, W, C)`` uint8."""
    # contiguous: a network that flattens with `view` refuses pictures with channels last
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().contiguous() / 255


def _patterns(layers: str | Sequence[str]) -> str | list[str]:
    """A list, or text with commas, as :func:`choose_layers` takes it."""
    found = layers.strip("[]").split(",") if isinstance(layers, str) else list(layers)
    found = [each.strip() for each in found if each.strip()]
    return "auto" if found == ["auto"] or not found else found
