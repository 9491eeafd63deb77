"""Where a run keeps its decoded images: on the device, in a memory-mapped file or in memory."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from convlens.core.memory import read_free_memory
from convlens.core.progress import progress_bar
from convlens.data.pixels.dataset import Images

SHARE = 4  # `auto` takes at most one in so many of the device's free bytes
_CHUNK = 1 << 26  # bytes copied at a time


def choose_residence(cache: str, size: int, device: torch.device) -> str:
    """Return where a run reads its images: ``device``, ``disk`` or ``ram``.

    Args:
        cache: ``data.cache``; ``auto`` is ``device`` on a GPU if the images fit in a quarter of its
            free memory, and otherwise ``disk``.
        size: bytes of the decoded images of all splits.
        device: where the network is.
    """
    if cache != "auto":
        return cache
    fits = device.type == "cuda" and size * SHARE <= read_free_memory(device)
    return "device" if fits else "disk"


def copy_images(images: Images, device: torch.device, title: str) -> Tensor:
    """Return the images of a split on a device, (N, H, W, C) uint8, image n at n.

    Raises:
        torch.OutOfMemoryError: the device cannot hold them.
    """
    count, shape = len(images), images.images.shape[1:]
    size = count * images.row_bytes
    if size > (free := read_free_memory(device)):
        raise torch.OutOfMemoryError(f"{size / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free")
    copied = torch.empty((count, *shape), dtype=torch.uint8, device=device)
    step = max(1, _CHUNK // images.row_bytes)
    with progress_bar(title, count) as work:
        for start in range(0, count, step):
            rows = np.arange(start, min(start + step, count))
            copied[start : start + len(rows)].copy_(torch.from_numpy(images.pixels(rows)))
            work.advance(len(rows))
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # other streams read it
    return copied
