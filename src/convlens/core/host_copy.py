"""Numbers of a device, copied to the host while the device keeps working."""

from __future__ import annotations

import torch
from torch import Tensor


class HostCopy:
    """A tensor on its way to the host.

    Starting the copy does not wait for the device, and reading it waits only until the device has
    computed the tensor. Read some steps later, it does not wait at all. Only CUDA copies in the
    background; from other devices the numbers are copied at once.

    Args:
        tensor: on any device; not changed afterwards.
    """

    def __init__(self, tensor: Tensor):
        is_cuda = tensor.device.type == "cuda"
        # into pinned memory, which torch chooses by itself for a copy that does not block
        self._values = tensor.detach().to("cpu", non_blocking=is_cuda)
        self._copied = torch.cuda.current_stream(tensor.device).record_event() if is_cuda else None

    def read(self) -> Tensor:
        """Return the numbers, on the CPU."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._values
