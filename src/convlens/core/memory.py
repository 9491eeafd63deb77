"""How much memory a device has."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def read_total_memory() -> int:
    """Return the bytes of this machine's main memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def read_free_memory(device: torch.device) -> int:
    """Return the free bytes of a GPU; of another device, those of the main memory in total."""
    if device.type != "cuda":
        return read_total_memory()
    from torch import cuda

    return cuda.mem_get_info(device)[0]
