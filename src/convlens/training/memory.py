"""Keep freed memory for the next training step."""

from __future__ import annotations

import ctypes

# constants from glibc's <malloc.h>
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8
TOP_PAD = 64 << 20  # bytes by which the heap grows


def keep_freed_memory() -> bool:
    """Tell glibc's allocator not to return freed memory to the system.

    On the CPU every step frees and allocates the same few hundred megabytes of feature maps. By
    default glibc maps each large block again, and the kernel zeroes it page by page; for a convnet
    on two cores that took a quarter of the training time. All threads share one heap, so that what
    one has freed is there for the others.

    Returns:
        Whether it was done; nothing happens except on Linux with glibc.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False  # another system or C library, without this option
    options = {
        M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: TOP_PAD, M_ARENA_MAX: 1,
    }  # fmt: skip
    return all(mallopt(switch, value) == 1 for switch, value in options.items())
