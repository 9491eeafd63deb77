"""Run ``convlens WORDS`` without the fast kernels of frozen layers: plain_kernels.py WORDS

A golden record must not depend on the fast convolution of frozen layers, which rounds its sums in
another order. The command is identified by its installed name and the kernel by its class name, so
both may move to other modules.
"""

from __future__ import annotations

import importlib
import re
import sys
from importlib.metadata import entry_points
from pathlib import Path

import torch
from torch import Tensor, nn

KERNEL = "FrozenChain"
_TRACE = re.compile(r"^\s*(def|class|from|import)\b.*winograd", re.I | re.M)


class PlainChain:
    """Replaces the kernel by the plain layers; ``passes`` counts the calls."""

    passes = 0

    def __init__(self, layers: nn.Sequential):
        self.layers = layers

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        PlainChain.passes += 1
        return self.layers(x)


def switch_off() -> bool:
    """Replace the kernel with ``PlainChain`` in every module that has imported it.

    Returns:
        True if a kernel was replaced.

    Raises:
        SystemExit: there is code of Winograd's algorithm, but no class with the kernel's name.
    """
    (place,) = map(Path, importlib.import_module("convlens").__path__)
    sources = {file: file.read_text(encoding="utf-8") for file in sorted(place.rglob("*.py"))}
    traces = [f for f, text in sources.items() if "winograd" in f.name or _TRACE.search(text)]
    if not traces:
        return False
    homes = [f for f, text in sources.items() if re.search(rf"^class {KERNEL}\b", text, re.M)]
    if len(homes) != 1:
        raise SystemExit(
            f"{traces[0]} computes frozen layers by Winograd's algorithm, but {len(homes)} files "
            f"define {KERNEL}: tests/support/plain_kernels.py has to learn the kernel's new name"
        )
    name = ".".join(["convlens", *homes[0].relative_to(place).with_suffix("").parts])
    kernel = getattr(importlib.import_module(name), KERNEL)
    for module in [m for n, m in list(sys.modules.items()) if n.split(".")[0] == "convlens"]:
        for attribute, value in list(vars(module).items()):
            if value is kernel:
                setattr(module, attribute, PlainChain)
    return True


def main(words: list[str]) -> int:
    there = switch_off()
    (command,) = entry_points(group="console_scripts", name="convlens")
    status = command.load()(words)
    print(f"kernel {'off' if there else 'gone'}, {PlainChain.passes} passes", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
