"""Which kernels torch may choose: a run states it instead of relying on torch's defaults."""

from __future__ import annotations

import torch


def choose_kernels(*, deterministic: bool) -> None:
    """Set which kernels all later computations of this process use.

    In float32 an NVIDIA GPU multiplies convolutions in TF32 (10 bits of mantissa instead of 23,
    sums in float32) and matrix products in full float32. These are torch's defaults, but they are
    set here, because the environment can change them.

    Args:
        deterministic: whether equal computations must give equal bits. If False, cuDNN also times
            its kernels for each new shape and takes the fastest.
    """
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    # the line above also fills every new tensor, but convlens reads no uninitialised memory
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_tf32 = False


def describe_kernels(device: torch.device) -> dict[str, bool | str]:
    """Return the settings in force: ``deterministic``, and on a GPU what multiplies in ``tf32``."""
    settings: dict[str, bool | str] = {
        "deterministic": torch.are_deterministic_algorithms_enabled()
    }
    if device.type == "cuda":
        backends = {
            "convolutions": torch.backends.cudnn.allow_tf32,
            "matrix products": torch.backends.cuda.matmul.allow_tf32,
        }
        settings["tf32"] = ", ".join(name for name, is_on in backends.items() if is_on) or "nothing"
    return settings
