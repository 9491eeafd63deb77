"""How much memory a device has, and whether it was too little."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convlens.core.system import read_total_memory

if TYPE_CHECKING:
    import torch


def read_free_memory(device: torch.device) -> int:
    """Return the free bytes of a GPU; of another device, those of the main memory in total."""
    if device.type != "cuda":
        return read_total_memory()
    from torch import cuda

    return cuda.mem_get_info(device)[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that a device or this machine has too little memory.

    torch has a class of its own for devices only; on the CPU its words have to tell.
    """
    text = str(error).lower()
    words = ("out of memory", "allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(each in text for each in words)
