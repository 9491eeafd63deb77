"""Search all images of a split for shortcuts and for slices of low accuracy.

Legend: N images, K classes, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from convlens.config.checks import replace_values, restore_config
from convlens.config.compose import apply_overrides, compose
from convlens.config.schema import Config
from convlens.config.schema.look_learned import ShortcutsConfig, SlicesConfig
from convlens.config.targets import format_targets
from convlens.core.errors import UserError
from convlens.core.progress import Work
from convlens.data.order import draw_even_sample
from convlens.data.pixels.dataset import Images
from convlens.data.pixels.decode import make_recipe
from convlens.data.pixels.photograph import make_photograph, read_photographs
from convlens.experiment.data import use_own_places
from convlens.experiment.inputs import is_exported
from convlens.experiment.networks import restore_module
from convlens.experiment.own_images import OwnImages, select_split
from convlens.experiment.shortcut_files import Reader, Result
from convlens.explain.covering import Covering, judge_parts
from convlens.explain.grad_cam import grad_cam, probabilities
from convlens.explain.layers import choose_layers
from convlens.explain.mode import chunks, device_of
from convlens.explain.penultimate import find_classifier, reading_features
from convlens.explain.shortcuts import Cluster, find_shortcuts, group_images, summarise_maps
from convlens.explain.slices import find_low_slices, find_slices
from convlens.models.adapters import merge_adapters
from convlens.training import ClassifierModule
from convlens.training.survival.checkpoint import read_checkpoint

KINDS = {"shortcuts": ShortcutsConfig, "slices": SlicesConfig}


@dataclass(frozen=True)
class Search:
    """What is searched.

    Attributes:
        config: resolved, with both callbacks.
        module: the network on its device, in evaluation mode.
        own: the images.
    """

    config: Config
    module: ClassifierModule
    own: OwnImages

    @property
    def shortcuts(self) -> ShortcutsConfig:
        """The settings of the search for shortcuts."""
        found = self.config.callbacks.looks["shortcuts"]
        assert isinstance(found, ShortcutsConfig)
        return found

    @property
    def slices(self) -> SlicesConfig:
        """The settings of the search for slices."""
        found = self.config.callbacks.looks["slices"]
        assert isinstance(found, SlicesConfig)
        return found


def prepare_search(file: Path, words: list[str], split: str) -> Search:
    """Restore the network of a checkpoint, and select the images.

    Args:
        file: the checkpoint.
        words: overrides of its config, ``key=value``.
        split: ``train``, ``validation`` or ``test``.

    Raises:
        UserError: the file is no checkpoint, its images have several classes, or they are not
            those of the run.
    """
    if is_exported(file):
        raise UserError(f"{file}: an exported file has no layers to explain; give its checkpoint")
    content = read_checkpoint(file)
    stored = restore_config(content["hyper_parameters"]["config"], str(file), words)
    stored = use_own_places(_add_settings(stored), file)
    config = apply_overrides(stored, words)
    module = restore_module(content, str(file), format_targets(config))
    if module.multi_label:
        raise UserError(f"{file}: images with several classes are not grouped; try eval or explain")
    merge_adapters(module.model)
    module.model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    return Search(config, module, select_split(config, content, split))


def _add_settings(config: Config) -> Config:
    """Return a config with the default settings of a search that the run did without."""
    known = config.callbacks.looks
    missing = [name for name, kind in KINDS.items() if not isinstance(known.get(name), kind)]
    if not missing:
        return config
    defaults = compose([]).callbacks.looks
    return replace_values(config, {f"callbacks.{name}": defaults[name].plain() for name in missing})


def search_images(search: Search, work: Work, *, most: int | None = None) -> Result:
    """Group the images of each class, and cover the places where their evidence is.

    Images pass through the network in batches. Of each, 64 cells, a few numbers and the features
    are kept in memory.

    Args:
        search: what is searched.
        work: shows how far it is.
        most: number of images, evenly spread over the classes; None for all.

    Raises:
        UserError: the network has no feature map.
    """
    network, images = search.module.model, search.own.images
    rows = np.arange(len(images))
    if most is not None and most < len(images):
        rows = np.sort(draw_even_sample(images.labels, most, search.config.seed))
    labels, reader = torch.from_numpy(images.labels[rows]), _build_reader(search, rows)
    example = reader.read(torch.arange(1))
    layers = choose_layers(network, "auto", "grad_cam", example=example)
    if not layers:
        raise UserError(
            "shortcuts needs a network with a feature map before its classifier, for Grad-CAM: "
            "this one has none"
        )
    classifier, settings = find_classifier(network, example)[0], search.shortcuts
    work.begin("maps", len(rows))
    evidence = _read_evidence(network, layers[0], classifier, reader, labels, settings.batch, work)
    work.begin("groups")
    clusters = group_images(
        evidence.cells, evidence.borders, labels, evidence.predictions, area=settings.area
    )
    places = [number for number, each in enumerate(clusters) if each.place is not None]
    work.begin("covering", sum(len(clusters[number].rows) for number in places))
    tested: dict[int, Covering] = {}
    for number in places:
        parts = _read_parts(reader, clusters[number], labels, settings.batch, work)
        place = clusters[number].place
        assert place is not None
        found = judge_parts(network, parts, place, evidence.colour, batch=settings.batch)
        if found is not None:
            tested[number] = found
    shortcuts = find_shortcuts(tested, fall=settings.fall, chance=settings.chance)
    slices = []
    if evidence.features is not None:
        work.begin("slices")
        slices = find_slices(evidence.features, labels, evidence.predictions)
    low = find_low_slices(slices, fall=search.slices.fall, chance=search.slices.chance)

    def explain(positions: Tensor) -> Tensor:
        shown = reader.read(positions)
        found = grad_cam(network, shown, labels[positions], layers, batch=settings.batch)
        return found.maps[layers[0]][:, 0].cpu()

    return Result(
        tuple(search.module.class_names), layers[0], classifier, labels, evidence.predictions,
        clusters, tested, shortcuts, slices, low, reader, explain,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Evidence:
    """What is kept of the images.

    Attributes:
        cells: (N, h, w), from ``summarise_maps``.
        borders: (N,), likewise.
        predictions: (N,) int64.
        features: (N, F) float32, or None.
        colour: (C,), the mean of all images.
    """

    cells: Tensor
    borders: Tensor
    predictions: Tensor
    features: Tensor | None
    colour: Tensor


def _read_evidence(
    network: nn.Module, layer: str, classifier: str | None, reader: Reader, labels: Tensor,
    batch: int, work: Work,
) -> _Evidence:  # fmt: skip
    cells, borders, predictions, features, colours = [], [], [], [], []
    for part in chunks(len(labels), batch):
        images = reader.read(torch.arange(part.start, part.stop))
        colours.append(images.mean((2, 3)).cpu())
        if classifier is None:
            found = grad_cam(network, images, labels[part], [layer])
        else:
            with reading_features(network, classifier) as read:
                found = grad_cam(network, images, labels[part], [layer])
            features += read
        summary = summarise_maps(found.maps[layer][:, 0].cpu())
        cells.append(summary[0])
        borders.append(summary[1])
        predictions.append(probabilities(found.logits).argmax(1).cpu())
        work.advance(len(images))
    return _Evidence(
        torch.cat(cells), torch.cat(borders), torch.cat(predictions),
        torch.cat(features) if features else None, torch.cat(colours).mean(0),
    )  # fmt: skip


def _read_parts(
    reader: Reader, cluster: Cluster, labels: Tensor, batch: int, work: Work
) -> Iterator[tuple[Tensor, Tensor]]:
    for part in chunks(len(cluster.rows), batch):
        positions = cluster.rows[part]
        yield reader.read(positions), labels[positions]
        work.advance(len(positions))


def _build_reader(search: Search, rows: np.ndarray) -> Reader:
    """Return what reads the searched images by their positions among them."""
    images, device = search.own.images, device_of(search.module.model)
    read = _pick_reader(images, device)
    recipe, files = make_recipe(search.config.data), images.files

    def photographs(positions: Tensor) -> list:
        chosen = rows[positions.numpy()]
        pixels = read(chosen).cpu()
        if files is None:
            return [make_photograph(each) for each in pixels]
        return read_photographs((files[row] for row in chosen), pixels, recipe)

    return Reader(
        lambda positions: read(rows[positions.numpy()]), photographs,
        lambda positions: [images.names[row] for row in rows[positions.numpy()].tolist()],
    )  # fmt: skip


def _pick_reader(images: Images, device: torch.device) -> Callable[[np.ndarray], Tensor]:
    def read(rows: np.ndarray) -> Tensor:
        pixels = torch.from_numpy(images.pixels(rows)).permute(0, 3, 1, 2)
        return pixels.to(device).contiguous().float().div_(255)

    return read
