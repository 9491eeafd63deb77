"""Stored features of a frozen base: computed once, memory-mapped, reused while nothing changes.

Legend: N images; ``cut`` is the number of backbone links whose output is stored.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from convlens.core.evaluation import evaluation_mode
from convlens.core.progress import progress_bar
from convlens.data.feed import Allocate
from convlens.data.index.digests import digest
from convlens.data.pixels.cache import Writer, load_or_build
from convlens.data.pixels.dataset import Images, copy_rows
from convlens.models import Classifier
from convlens.models.state import compute_fingerprint

VERSION = 1  # of the stored numbers: raise it if the same key would give different ones
# Images per pass. Not the config's batch size: the last bits of a convolution depend on it, and
# the cache must not depend on which run filled it.
BATCH = 20


@dataclass(frozen=True)
class Features:
    """Features at a cut for every image of a split.

    Attributes:
        array: (N, …) memory-mapped; bfloat16 numbers as their uint16 bit patterns.
        dtype: type of the numbers.
        cut: number of backbone links before the cut.
        from_cache: whether they were read from the cache.
        seconds: time that computing or opening took.
    """

    array: np.ndarray
    dtype: torch.dtype
    cut: int
    from_cache: bool
    seconds: float

    @property
    def megabytes(self) -> float:
        """Size of all features."""
        return self.nbytes / 1e6

    @property
    def nbytes(self) -> int:
        """Size of all features."""
        return self.array.nbytes

    def rows(self, rows: np.ndarray, allocate: Allocate | None = None) -> Tensor:
        """Return a copy of the features of some images, (len(rows), …).

        Args:
            rows: positions in the split.
            allocate: called with ``features``, shape and type; returns the memory for the copy.
                None for new memory.
        """
        out = None
        if allocate is not None:
            dtype = torch.uint16 if self.dtype == torch.bfloat16 else self.dtype
            out = allocate("features", (len(rows), *self.array.shape[1:]), dtype).numpy()
        return torch.from_numpy(copy_rows(self.array, rows, out)).view(self.dtype)


def compute_features(
    model: Classifier,
    cut: int,
    pictures: Images,
    *,
    precision: str,
    context: Callable[[], contextlib.AbstractContextManager],
    device: torch.device,
    directory: Path,
    title: str,
    base: Features | None = None,
) -> Features:
    """Load the features of ``pictures`` at ``cut`` from the cache, or compute and store them.

    The cache key consists of the weights and buffers of the links before the cut and of the
    normalisation, the backbone's settings, the cut, the precision, the kind of device, and the
    source of the pixels (paths, sizes and times of the files, image size and resizing).

    Args:
        model: the network.
        cut: number of links before the cut.
        pictures: the images of a split.
        precision: the resolved precision.
        context: the precision's context for a forward pass.
        device: the model's device.
        directory: folder of the cache.
        title: title of the progress bar.
        base: features of the same images at an earlier cut, to continue from.

    Raises:
        UserError: the disk is full, or the folder is not writable.
    """
    began = time.perf_counter()
    links = [model.backbone.get_submodule(link) for link in model.backbone.link_names[:cut]]
    weights = [compute_fingerprint(part) for part in (model.normalise, *links)]
    source, state = pictures.identity
    settings = model.backbone.settings
    key = (VERSION, torch.__version__, weights, settings, cut, precision, device.type, source)

    def build(writer: Writer) -> dict:
        with (
            torch.no_grad(),
            context(),
            evaluation_mode(model),
            progress_bar(title, len(pictures)) as work,
        ):
            file, dtype = None, None
            for start in range(0, len(pictures), BATCH):
                rows = np.arange(start, min(start + BATCH, len(pictures)))
                values = _forward(model, cut, pictures, rows, device, base).cpu()
                numbers = values.contiguous()
                if values.dtype == torch.bfloat16:
                    numbers = numbers.view(torch.uint16)
                if file is None:
                    dtype = str(values.dtype).removeprefix("torch.")
                    shape = (len(pictures), *values.shape[1:])
                    file = writer.create("features", shape, numbers.numpy().dtype)
                file.put(start, numbers.numpy())
                work.advance(len(rows))
        return {"dtype": dtype}

    way_out = "or train without stored features: cache_features=never"
    entry = load_or_build(
        directory, f"features-{digest(*key)}", digest(*key, state), build, way_out
    )
    return Features(
        entry.arrays["features"],
        getattr(torch, entry.notes["dtype"]),
        cut,
        entry.from_cache,
        time.perf_counter() - began,
    )


def measure_feature_seconds(model: Classifier, cut: int, images: Tensor) -> float:
    """Measure the seconds that computing the features of one image takes, in a small batch.

    Args:
        model: the network.
        cut: number of links before the cut.
        images: (B, C, H, W) in [0, 1], on the model's device.
    """
    with torch.no_grad(), evaluation_mode(model):
        for _ in range(2):  # the first pass builds kernels
            began = time.perf_counter()
            model.features(images, cut).sum().item()  # waits for the device
    return (time.perf_counter() - began) / len(images)


def _forward(
    model: Classifier,
    cut: int,
    pictures: Images,
    rows: np.ndarray,
    device: torch.device,
    base: Features | None,
) -> Tensor:
    if base is not None:
        return model.backbone.run(base.rows(rows).to(device), base.cut, cut)
    images = torch.from_numpy(pictures.pixels(rows)).permute(0, 3, 1, 2).to(device)
    images = images.to(next(model.parameters()).dtype).div_(255)
    return model.features(images, cut)
