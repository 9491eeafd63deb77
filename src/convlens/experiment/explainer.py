"""A trained network and everything that can be asked of it: classes, maps, panels.

>>> import convlens                                                 # doctest: +SKIP
>>> convlens.load("outputs/…/best.ckpt").explain("cat.jpg")         # doctest: +SKIP
>>> convlens.wrap(my_network, ["cat", "dog"], size=224, normalisation="imagenet")  # doctest: +SKIP

Shapes: ``C`` channels, ``H W`` picture size, ``h w`` size of a layer's maps, ``K`` classes, ``T``
classes explained.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from convlens.core.errors import UserError, nearest
from convlens.data.index.names import place_of
from convlens.data.pixels.decode import Recipe, decode_picture, from_image
from convlens.data.pixels.load import pillow_settings
from convlens.draw.activation_grid import activation_grid
from convlens.draw.attribution_panel import attribution_panel
from convlens.draw.filter_sheet import filter_sheet, kernel_sheet
from convlens.draw.grad_cam_panel import ClassMap, LayerMap, Role, grad_cam_panel, probability_text
from convlens.draw.jpeg import encode_jpeg
from convlens.explain.activations import activations
from convlens.explain.attribution import attribute, attribution_methods, find_method
from convlens.explain.filters import gradient_ascent, kernels, logits_layer, recipe, to_display
from convlens.explain.grad_cam import grad_cam, probabilities
from convlens.explain.layers import choose_layers, feature_map, takes_image
from convlens.explain.occlusion import occlusion, superpixel_ablation, superpixels, window_pixels
from convlens.explain.outputs import answering, check_outputs
from convlens.explain.taps import device_of, explaining, find_module, preprocessing, ready
from convlens.models.normalise import normalisation as normalise_by
from convlens.pages import data_uri

log = logging.getLogger("convlens")
DEFAULT = ("grad_cam", "occlusion", "superpixels", "integrated_gradients", "activations")
OURS = ("grad_cam", "occlusion", "superpixels", "activations", "filters")
_LAYERS_SHOWN = 16  # of activation grids, where none are named
_FILTER_LAYERS, _UNITS = 8, 16  # of filter pictures: layers where none are named, units of each
_ASCENT = {"steps": 30, "step_size": 0.02, **recipe("robust")}
_SEGMENTS = 49  # superpixels, about as many as there are windows
_WINDOW, _STRIDE = 0.25, 0.125  # of occlusion, shares of the picture's sides
_STEPS = {"integrated_gradients": {"n_steps": 20}}
_BATCH = 32

PictureLike = str | os.PathLike | Image.Image | np.ndarray | Tensor


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a network says of one picture, and why. In a notebook it shows itself.

    Attributes:
        name: of the picture.
        picture: ``(C, H, W)`` in [0, 1], as the network sees it before normalisation.
        class_names: ``K`` names.
        probabilities: ``(K,)`` in [0, 1].
        targets: the ``T`` classes explained.
        grad_cam: layer -> ``(T, h, w)``, at least 0; on the scale of logits.
        maps: method (``occlusion``, ``superpixels``, any of Captum's) -> ``(T, H, W)``, or
            ``(T, h, w)`` of a layer; signed.
        activations: layer -> ``(C', h, w)``.
        panels: tag -> uint8 ``(H, W, 3)``, the drawn explanations.
        notes: what a reader of the maps should know, one line each.
    """

    name: str
    picture: Tensor
    class_names: tuple[str, ...]
    probabilities: Tensor
    targets: tuple[int, ...]
    grad_cam: dict[str, Tensor]
    maps: dict[str, Tensor]
    activations: dict[str, Tensor]
    panels: dict[str, np.ndarray]
    notes: tuple[str, ...] = ()

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The likeliest classes with their probabilities, the likeliest first."""
        shares, numbers = self.probabilities.topk(min(count, len(self.probabilities)))
        names = (self.class_names[number] for number in numbers.tolist())
        return list(zip(names, shares.tolist(), strict=True))

    def __str__(self) -> str:
        said = ", ".join(f"{name} {probability_text(share)}" for name, share in self.top(3))
        return f"{self.name}: {said}"

    def _repr_html_(self) -> str:
        import html

        parts = [f"<p><b>{html.escape(str(self))}</b></p>"]
        for tag, panel in self.panels.items():
            uri, alt = data_uri(encode_jpeg(panel)), html.escape(tag)
            parts.append(f'<p><img src="{uri}" alt="{alt}" style="max-width:100%"></p>')
        return "\n".join(parts)

    def save(self, folder: str | os.PathLike) -> list[Path]:
        """Write every panel as ``<tag>.jpg`` below ``folder``; returns the files."""
        files = []
        for tag, panel in self.panels.items():
            file = Path(folder) / f"{tag}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encode_jpeg(panel))
            files.append(file)
        return files


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
                f"two classes of one name cannot be told apart; give each its own"
            )
        if normalise is not None:
            normalise.to(device_of(network))
        self.note = self._check()
        if self.note:
            log.info(self.note)

    def _check(self) -> str | None:
        """What is to be said of the outputs, from one pass; UserError where they do not fit."""
        images = torch.rand(2, *self.shape, generator=torch.Generator().manual_seed(0))
        with (
            self._preprocessed(),
            explaining(self.network),
            answering(self.network, self._outputs),
        ):
            logits, note = check_outputs(self.network, ready(self.network, images))
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
            pixels = from_image(picture, self.recipe)
        else:
            with pillow_settings():
                pixels = decode_picture(Path(picture).expanduser(), self.recipe)
        # contiguous: a network that flattens with `view` refuses pictures with channels last
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().contiguous() / 255

    def _resized(self, picture: Tensor) -> Tensor:
        channels, height, width = self.shape
        if picture.dim() != 3 or len(picture) not in (1, channels):
            raise ValueError(f"tensors are ({channels}, H, W), not {tuple(picture.shape)}")
        picture = picture.detach().float().expand(channels, -1, -1)
        if tuple(picture.shape) == self.shape:
            return picture
        resized = F.interpolate(
            picture[None], size=(height, width), mode="bilinear", antialias=True
        )  # fmt: skip
        return resized[0]

    def probabilities(self, pictures: Tensor) -> Tensor:
        """``(B, K)`` in [0, 1] of pictures ``(B, C, H, W)`` in [0, 1]; on the CPU."""
        with self._asked(), explaining(self.network), torch.no_grad():
            return probabilities(self.network(ready(self.network, pictures.contiguous()))).cpu()

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
                attribution method of Captum (``integrated_gradients``); None for :data:`DEFAULT`.
            name: of the picture; a file has its own.
            layers: whose Grad-CAM, activations and filters are shown: names or patterns, a list or
                text with commas; ``auto`` for what each of them shows by default. See
                :func:`convlens.explain.choose_layers`.

        Raises:
            UserError: a file that gives no picture, an unknown class, method or layer, a layer that
                has no maps, Grad-CAM asked for by name of a network that has no feature map.
        """
        wanted = methods(only)
        layers = _patterns(layers)
        image = self.read(picture)[None]
        shares = self.probabilities(image)[0]
        targets = self._targets(target, shares)
        if name is None:
            name = Path(picture).stem if isinstance(picture, str | os.PathLike) else "picture"
        found = Explanation(
            name, image[0], self.class_names, shares, tuple(targets), {}, {}, {}, {}, ()
        )
        notes: list[str] = [self.note] if self.note else []
        with self._asked():
            for method in wanted:
                if method == "grad_cam":
                    self._grad_cam(found, image, layers, notes, asked=only is not None)
                elif method == "activations":
                    self._activations(found, image, layers, notes)
                elif method == "filters":
                    found.panels.update(self.filters(layers))
                else:
                    self._signed(found, image, method, notes)
        return Explanation(**{**found.__dict__, "notes": tuple(notes)})

    def filters(self, layers: str | Sequence[str] = "auto") -> dict[str, np.ndarray]:
        """``filters/<layer>`` -> its panel, uint8 ``(H, W, 3)``; no picture is needed.

        The kernels of convolutions that read the image itself; of deeper convolutions and of dense
        layers images that excite single units most, found by gradient ascent.

        Args:
            layers: see :meth:`explain`; a name here means a convolution or a dense layer.

        Raises:
            UserError: an unknown layer, or one that is neither a convolution nor dense.
        """
        example = torch.full((1, *self.shape), 0.5)
        with self._asked():
            chosen = choose_layers(
                self.network, _patterns(layers), "filters", example=example, limit=_FILTER_LAYERS
            )
            first = takes_image(self.network, example)
            logits = logits_layer(self.network, chosen, example)
            return {
                f"filters/{layer}": self._kernels(layer)
                if layer in first
                else self._ascent(layer, named=layer == logits)
                for layer in chosen
            }

    def _kernels(self, layer: str) -> np.ndarray:
        return kernel_sheet(kernels(find_module(self.network, layer)), title=f"{layer} · kernels")

    def _ascent(self, layer: str, *, named: bool) -> np.ndarray:
        """Pictures of some units, evenly spread; of the layer that gives the logits, by class."""
        module, names = find_module(self.network, layer), self.class_names
        total = getattr(module, "out_channels", None) or getattr(module, "out_features", None)
        if total is None:
            raise UserError(
                f"layer {layer!r} is no convolution and no dense layer: it has no filters"
            )
        count = min(_UNITS, total)
        units, signs = [round(i * total / count) for i in range(count)], None
        labels = [names[unit] for unit in units] if named and total == len(names) else None
        if named and total == 1:
            units, signs, labels = [0, 0], [-1, 1], list(names)
        found = gradient_ascent(
            self.network, layer, units, signs=signs, size=self.shape[1:], channels=self.shape[0],
            seed=self.seed, batch=_BATCH, **_ASCENT,
        )  # fmt: skip
        return filter_sheet(
            to_display(found.images), found.units, labels=labels,
            marks=["zero gradient" if stuck else None for stuck in found.stuck.tolist()],
            title=f"{layer} · gradient ascent, {len(set(units))} of {total} units",
        )  # fmt: skip

    def _grad_cam(
        self, found: Explanation, image: Tensor, layers: str | list[str], notes: list[str],
        *, asked: bool,
    ) -> None:  # fmt: skip
        layers = choose_layers(self.network, layers, "grad_cam", example=image)
        if not layers:
            _, why = feature_map(self.network, image)
            if asked:
                raise UserError(f"only=grad_cam: {why}; occlusion explains any network")
            notes.append(f"grad_cam: {why}, there is nothing to draw")
            return
        maps = grad_cam(self.network, image, torch.tensor([found.targets]), layers).maps
        for layer in layers:
            found.grad_cam[layer] = maps[layer][0].cpu()
        rows = []
        for row, (target, role) in enumerate(self._roles(found)):
            drawn = [LayerMap(layer, found.grad_cam[layer][row]) for layer in layers]
            last = drawn.pop()
            rows.append(
                ClassMap(
                    last.map, self.class_names[target], role, float(found.probabilities[target]),
                    last.scale, last.layer, tuple(drawn),
                )
            )  # fmt: skip
        title = f"{found.name} · Grad-CAM at {', '.join(layers)}"
        found.panels["grad_cam"] = grad_cam_panel(found.picture, rows, title=title)

    def _signed(self, found: Explanation, image: Tensor, method: str, notes: list[str]) -> None:
        targets = torch.tensor([found.targets])
        lines: tuple[str, ...] = ()
        if method == "occlusion":
            size = tuple(image.shape[-2:])
            window, stride = window_pixels(_WINDOW, size), window_pixels(_STRIDE, size)
            how = f"occlusion, window {window[0]}×{window[1]}, stride {stride[0]}×{stride[1]}"
            maps = occlusion(
                self.network, image, targets, window=window, stride=stride, baseline="mean",
                batch=_BATCH,
            ).maps[0]  # fmt: skip
        elif method == "superpixels":
            segments = superpixels(image, _SEGMENTS)
            how = f"occlusion, {int(segments.max()) + 1} superpixels"
            maps = superpixel_ablation(
                self.network, image, targets, segments, baseline="mean", batch=_BATCH
            ).maps[0]
        else:
            repeated = image.expand(len(found.targets), *image.shape[1:])
            told = attribute(
                self.network, repeated, targets[0], method, batch=_BATCH, seed=self.seed,
                **_STEPS.get(method, {}),
            )  # fmt: skip
            maps, lines = told.maps, told.notes
            how = " · ".join([method.replace("_", " "), *([told.layer] if told.layer else [])])
        found.maps[method] = maps.cpu()
        notes += [f"{method}: {line}" for line in lines]
        rows = [
            ClassMap(
                found.maps[method][row], self.class_names[target], role,
                float(found.probabilities[target]),
            )
            for row, (target, role) in enumerate(self._roles(found))
        ]  # fmt: skip
        title = f"{found.name} · {how}"
        found.panels[method] = attribution_panel(
            found.picture, rows, title=title, note="; ".join(lines) or None
        )

    def _activations(
        self, found: Explanation, image: Tensor, layers: str | list[str], notes: list[str]
    ) -> None:
        if layers == "auto" and (why := feature_map(self.network, image)[1]):
            notes.append(f"activations: {why}")
        layers = choose_layers(
            self.network, layers, "activations", example=image, limit=_LAYERS_SHOWN
        )
        for layer, maps in activations(self.network, image, layers).layers.items():
            found.activations[layer] = maps[0].cpu()
            title = f"{layer} · {found.name}"
            found.panels[f"activations/{layer}"] = activation_grid(
                found.activations[layer], title=title
            )

    def _targets(self, target: str | None, shares: Tensor) -> list[int]:
        place = None if target is None else place_of(target, self.class_names)
        if place is not None:
            return [place]
        count = "1" if target is None else target.removeprefix("top")
        if (target is None or target.startswith("top")) and count.isdigit() and int(count):
            return shares.topk(min(int(count), len(shares))).indices.tolist()
        raise UserError(f"target={target}: no such class; {nearest(target, self.class_names)}")

    def _roles(self, found: Explanation) -> list[tuple[int, Role]]:
        likeliest = int(found.probabilities.argmax())
        return [(t, "predicted" if t == likeliest else "target") for t in found.targets]

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """The network takes pictures in [0, 1] and gives logits while this lasts."""
        classes = len(self.class_names)
        with self._preprocessed(), answering(self.network, self._outputs, classes):
            yield

    def _preprocessed(self) -> AbstractContextManager[None]:
        if self._normalise is None:
            return nullcontext()
        return preprocessing(self.network, self._normalise)


def methods(only: str | Sequence[str] | None) -> list[str]:
    """The explanations that ``only`` names: a list, or text with commas; None for all usual ones.

    Raises:
        UserError: one that there is not.

    >>> methods("grad_cam,Saliency")
    ['grad_cam', 'saliency']
    """
    if only is None:
        return list(DEFAULT)
    asked = only.split(",") if isinstance(only, str) else list(only)
    found = []
    for each in (name.strip() for name in asked):
        if each not in OURS:
            try:
                each = find_method(each)
            except UserError:
                known = [*OURS, *attribution_methods()]
                raise UserError(
                    f"only={each}: no such explanation; {nearest(each, known)}"
                ) from None
        found.append(each)
    return list(dict.fromkeys(found))


def _patterns(layers: str | Sequence[str]) -> str | list[str]:
    """A list, or text with commas, as :func:`choose_layers` takes it."""
    found = layers.strip("[]").split(",") if isinstance(layers, str) else list(layers)
    found = [each.strip() for each in found if each.strip()]
    return "auto" if found == ["auto"] or not found else found


def load(checkpoint: str | os.PathLike, *, device: str | None = None) -> Explainer:
    """The network of a checkpoint that a run of convlens wrote, ready to be asked.

    Args:
        checkpoint: ``best.ckpt`` or ``last.ckpt`` of a run.
        device: such as ``cuda``; None for the GPU if there is one.

    Raises:
        UserError: no such file, or not a checkpoint of convlens.
    """
    from convlens.experiment.restore import restored, understood
    from convlens.training.survival.checkpoint import read_checkpoint

    content = read_checkpoint(checkpoint)
    module = restored(content, str(checkpoint), compile=False)
    config, told = module.config, content["hyper_parameters"]
    network = module.model.eval().to(device or _device())
    with understood(str(checkpoint)):
        recipe, seed = recipe_of(config["data"]), config["seed"]
    return Explainer(network, told["class_names"], recipe, seed=seed, outputs="logits")


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


def recipe_of(data: dict) -> Recipe:
    """How pictures come to the network that a config group ``data`` describes."""
    size = data["size"]
    return Recipe(size, size, data["channels"], data["resize"], data["interpolation"])


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
