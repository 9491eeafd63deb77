"""Keep the memory that a training step frees, for the next step."""

from __future__ import annotations

import ctypes
import sys

# numbers of glibc's <malloc.h>
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
TOP_PAD = 64 << 20  # bytes the heap grows by at a time


def keep_freed_memory() -> bool:
    """Tell glibc's allocator not to give freed memory back to the system.

    On the CPU every step frees and takes the same few hundred megabytes of feature maps. By
    default glibc maps each large block anew, and the kernel fills it with zeros page by page;
    for a convnet on two cores that was a quarter of the training time.

    Returns:
        Whether it was done; elsewhere than on Linux with glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False  # another C library, which has no such switch
    wanted = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: TOP_PAD}
    return all(mallopt(switch, value) == 1 for switch, value in wanted.items())
