"""Export a network: a file with preprocessing, classes and model card, checked when written.

Shapes: ``B`` images, ``C`` channels, ``H W`` image size, ``h w`` size of a map, ``K`` classes.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from convlens.config.schema import ModelConfig
from convlens.core.errors import UserError, check_name, convert_errors
from convlens.core.files import open_atomic
from convlens.core.progress import progress_bar
from convlens.data.sources.registry import build_pool
from convlens.experiment.card import Origin, read_origin, write_card
from convlens.experiment.explainer import Explainer
from convlens.experiment.inputs import find_checkpoint, find_image_files, is_exported, start_walk
from convlens.experiment.networks import load_network
from convlens.explain.grad_cam import grad_cam
from convlens.explain.layers import find_feature_map
from convlens.explain.occlusion import compute_logits
from convlens.export import onnx_file, other_files, timm_folder
from convlens.export.answers import (
    GRAD_CAM,
    LOGITS,
    PROBABILITIES,
    Answers,
    copy_plain,
    trace_with_map,
)
from convlens.export.facts import Facts, make_facts
from convlens.rundir.paths import OUTPUTS, make_folder, make_fresh_folder

# what each format writes
FILES = {
    "onnx": "network.onnx", "torch_export": "network.pt2", "safetensors": "network.safetensors",
    "timm": "timm",
}  # fmt: skip
COMPUTES = ("onnx", "torch_export")  # formats that hold a function, not only weights
TOLERANCE = 1e-4  # of probabilities, logits and maps, absolute
_BATCH = 16  # images per pass of the check; the first image is passed alone, too


@dataclass(frozen=True)
class Check:
    """What a file computed on real images, beside the network.

    Attributes:
        images: number of images.
        place: where they come from.
        differences: the largest absolute difference by output; empty if the file holds only
            weights, which are those of the network, bit for bit.
        same: number of images with the same predicted class, or classes.
    """

    images: int
    place: str
    differences: Mapping[str, float]
    same: int

    def __str__(self) -> str:
        if not self.differences:
            return "all weights read back are those of the network, bit for bit"
        parts = [f"{name} {value:.1e}" for name, value in self.differences.items()]
        return (
            f"{self.images} images of {self.place}: the same prediction in {self.same}; largest "
            f"difference: {', '.join(parts)}"
        )


@dataclass(frozen=True)
class Export:
    """Result of ``export_network``.

    Attributes:
        file: the file, or the folder for timm.
        facts: what it says about itself.
        check: what it computed when it was checked.
    """

    file: Path
    facts: Facts
    check: Check


@dataclass(frozen=True)
class _Subject:
    """What is exported, and what it is compared with.

    Attributes:
        network: the plain copy of the network.
        spec: the config group ``model``.
        images: ``(B, C, H, W)`` in [0, 1], at least two.
        place: where they come from.
        expected: by output, what the network itself computes on the images.
        facts: what the file says about the network.
    """

    network: nn.Module
    spec: ModelConfig
    images: Tensor
    place: str
    expected: Mapping[str, Tensor]
    facts: Facts


def export_network(
    ckpt: str | None, words: list[str], *, kind: str = "onnx", cam: bool = False,
    images: str | None = None, count: int = 16, run_dir: str | None = None,
    temperature: bool = True,
) -> Export:  # fmt: skip
    """Export a network; the file is written only if it computes what the network does.

    Args:
        ckpt: as for ``load_network``.
        words: as for ``load_network``; at least one of both names a network.
        kind: one of ``FILES``.
        cam: whether the file also computes the Grad-CAM map of the last feature map.
        images: an image or a folder of images for the check; None for images of the run's data.
        count: number of images for the check, evenly spread over all.
        run_dir: the folder to write; None for a new one.
        temperature: whether the file's probabilities are the calibrated ones.

    Raises:
        UserError: the format is unknown or cannot hold this network, a package is missing, there
            are no images for the check, or the file computes something else.
    """
    check_name("format", kind, FILES)
    if cam and kind not in COMPUTES:
        raise UserError(f"cam=true: format={kind} holds only weights; try format=onnx")
    if kind == "onnx":
        onnx_file.check_installed(onnx_file.WRITES, "format=onnx")
    if ckpt and is_exported(find_checkpoint(ckpt)):
        raise UserError(f"ckpt={ckpt} is an exported file; give the checkpoint it was made from")
    home = _find_folder(run_dir, FILES[kind])
    with progress_bar("reading the network"):
        explainer, _ = load_network(ckpt, words, temperature=temperature)
        explainer.network.cpu()
        origin = read_origin(ckpt, words)
    with progress_bar("computing the answers for the check"):
        pictures, place = _read_images(explainer, origin, images, count)
        subject = _describe(explainer, origin, pictures, place, cam)
    write = {
        "onnx": _write_onnx, "torch_export": _write_program, "safetensors": _write_weights,
        "timm": _write_timm,
    }[kind]  # fmt: skip
    home = home or make_fresh_folder(OUTPUTS / "export")
    with progress_bar(f"exporting as {kind}"):
        check = write(subject, home / FILES[kind])
    return Export(home / FILES[kind], subject.facts, check)


def _find_folder(run_dir: str | None, name: str) -> Path | None:
    """Return the folder to write, which is made; None if the user names none."""
    if run_dir is None:
        return None
    home = Path(run_dir).expanduser()
    if (home / name).exists():
        raise UserError(f"run_dir={home} already contains {name}: choose another")
    make_folder(home)
    return home


def _describe(
    explainer: Explainer, origin: Origin, images: Tensor, place: str, cam: bool
) -> _Subject:
    """Return the network to export, and what it computes on the images.

    Raises:
        UserError: ``cam``, and the network has no feature map.
    """
    network, layer, parts = explainer.network, None, images.split(_BATCH)
    expected = {PROBABILITIES: torch.cat([explainer.probabilities(part) for part in parts])}
    if cam:
        layer, reason = find_feature_map(network, images[:1])
        if layer is None:
            raise UserError(f"cam=true: {reason}; leave it out")
        several = explainer.thresholds is not None
        targets = torch.arange(len(explainer.class_names)) if several else torch.tensor([-1])
        found = grad_cam(network, images, targets.expand(len(images), -1), [layer], batch=_BATCH)
        maps = found.maps[layer]
        expected |= {
            LOGITS: found.logits / explainer.temperature,
            GRAD_CAM: maps if several else maps[:, 0],
        }
    else:
        expected[LOGITS] = compute_logits(network, images, batch=_BATCH) / explainer.temperature
    limits = None if explainer.thresholds is None else explainer.thresholds.tolist()
    facts = make_facts(
        explainer.class_names, explainer.recipe, layer, limits, explainer.temperature
    )
    facts = replace(facts, card=write_card(network, facts, origin))
    spec = origin.config.model
    return _Subject(copy_plain(network), spec, images, place, expected, facts)


def _read_images(
    explainer: Explainer, origin: Origin, images: str | None, count: int
) -> tuple[Tensor, str]:
    """Return images ``(B, C, H, W)`` in [0, 1] for the check, and where they come from."""
    if images is not None:
        files = list(find_image_files(start_walk(images)))
        chosen = [files[row] for row in _spread(len(files), count)]
        return _repeat_single(torch.stack([explainer.read(file) for file in chosen])), images
    if origin.checkpoint is None:
        raise UserError("export compares the file with the network on images: give images=DIR")
    try:
        spec = origin.config.data.replace(corrections=None)  # labels do not matter here
        pool = build_pool(spec, origin.config.seed)
        found = pool.load(_spread(len(pool.labels), count)).splits["test"]
    except UserError as error:
        raise UserError(f"{error}; or name other images for the check: images=DIR") from error
    pixels = torch.from_numpy(found.pixels(np.arange(len(found))))
    return _repeat_single(pixels.permute(0, 3, 1, 2).float().contiguous() / 255), pool.place


def _spread(total: int, count: int) -> np.ndarray:
    """Return at most ``count`` rows, evenly spread over ``total``, in ascending order."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))


def _repeat_single(images: Tensor) -> Tensor:
    """Return the images, a single one twice, because two batch sizes are checked."""
    return images if len(images) > 1 else images.repeat(2, 1, 1, 1)


def _compare(subject: _Subject, run: Callable[[Tensor], Mapping[str, Tensor]]) -> Check:
    """Compare what a file computes with what the network computes, at two batch sizes.

    Raises:
        UserError: a value differs by more than ``TOLERANCE``.
    """
    images, expected = subject.images, subject.expected
    parts = [run(part) for part in images.split(_BATCH)]
    found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    alone, differences = run(images[:1]), {}
    for name, values in found.items():
        differences[name] = max(
            _find_difference(values, expected[name]),
            _find_difference(alone[name], expected[name][:1]),
        )
        if not differences[name] <= TOLERANCE:
            raise UserError(
                f"nothing was written: {name} of the file and of the network differ by "
                f"{differences[name]:.1e}, more than {TOLERANCE:g}"
            )
    one, other = (_predict(subject, each[PROBABILITIES]) for each in (found, expected))
    same = int((one == other).all(1).sum())
    return Check(len(images), subject.place, differences, same)


def _predict(subject: _Subject, probabilities: Tensor) -> Tensor:
    """Return the predicted class of each image, ``(B, 1)``, or whether each is, ``(B, K)``."""
    if (limits := subject.facts.thresholds) is None:
        return probabilities.argmax(1, keepdim=True)
    return probabilities >= torch.tensor(limits)


def _find_difference(values: Tensor, others: Tensor) -> float:
    """Return the largest absolute difference; NaN or infinite if they cannot be compared."""
    return float((values - others).abs().max()) if values.shape == others.shape else float("inf")


def _build_function(subject: _Subject) -> tuple[nn.Module, tuple[str, ...]]:
    """Return the function to export, and the names of its outputs."""
    facts = subject.facts
    answers = Answers(subject.network, facts.temperature, several=facts.thresholds is not None)
    if facts.layer is None:
        return answers, (PROBABILITIES, LOGITS)
    traced = trace_with_map(answers, facts.layer, subject.images[:2])
    return traced, (PROBABILITIES, LOGITS, GRAD_CAM)


def _convert_errors(subject: _Subject, kind: str) -> AbstractContextManager[None]:
    """Convert whatever torch's exporters raise inside into one line."""
    if subject.facts.layer is None:
        return convert_errors(
            f"format={kind}: torch cannot export this network", "try format=safetensors"
        )
    return convert_errors(
        f"cam=true: torch cannot export the gradient of {subject.spec.name}", "leave cam=true out"
    )


def _write_onnx(subject: _Subject, file: Path) -> Check:
    with _convert_errors(subject, "onnx"):
        function, outputs = _build_function(subject)
        content = onnx_file.convert(function, subject.images[:2], outputs)
        metadata = subject.facts.to_metadata() | {"opset": str(onnx_file.OPSET)}
        content = onnx_file.add_metadata(content, metadata)
    check = _compare(subject, onnx_file.OnnxNetwork(content, file.name).run)
    _write(file, content)
    return check


def _write_program(subject: _Subject, file: Path) -> Check:
    with _convert_errors(subject, "torch_export"):
        function, outputs = _build_function(subject)
        metadata = subject.facts.to_metadata()
        content = other_files.save_program(function, subject.images[:2], metadata)
        program = other_files.load_program(content)
    check = _compare(subject, lambda part: dict(zip(outputs, program(part), strict=True)))
    _write(file, content)
    return check


def _write_weights(subject: _Subject, file: Path) -> Check:
    content = other_files.save_weights(subject.network, subject.facts.to_metadata())
    other_files.check_weights(content, subject.network)
    _write(file, content)
    return Check(len(subject.images), subject.place, {}, len(subject.images))


def _write_timm(subject: _Subject, folder: Path) -> Check:
    import timm

    result, options = timm_folder.build_timm_network(
        subject.network, subject.spec, subject.facts.recipe.height
    )
    normalise = subject.network.normalise
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".timm") as temporary:
        made = Path(temporary) / folder.name
        timm_folder.write_timm_folder(made, result, options, subject.facts, normalise)
        network = timm.create_model(f"local-dir:{made}", pretrained=True).eval()
        whole, facts = nn.Sequential(normalise, network), subject.facts
        answers = Answers(whole, facts.temperature, several=facts.thresholds is not None)
        with torch.no_grad():
            names = (PROBABILITIES, LOGITS)
            check = _compare(subject, lambda part: dict(zip(names, answers(part), strict=True)))
        shutil.move(made, folder)
    return check


def _write(file: Path, content: bytes) -> None:
    try:
        with open_atomic(file, "wb") as out:
            out.write(content)
    except OSError as error:
        raise UserError(
            f"{file} was not written ({error.strerror}): make room or choose another run_dir"
        ) from error
