"""Compile a network with ``torch.compile``, in place: names of parameters stay as they are.

A network that repeats blocks is compiled block by block: equal blocks share one compilation, which
takes a fraction of the time. What is between the blocks runs as usual. A network without repeated
blocks is compiled as a whole.
"""

from __future__ import annotations

from torch import nn

from convlens.models import Classifier

GRAPHS = "graphs"  # the value of training.compile that adds CUDA graphs
LEAST = 4  # blocks that a network must have to be compiled block by block
LIMIT = 64  # compilations of one piece of code, instead of torch's 8, for networks of many shapes
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def find_blocks(network: Classifier) -> list[nn.Module]:
    """Return the blocks that a network consists of; the network itself if there are too few.

    Blocks are the innermost parts, in the sequences of the backbone, that hold several layers with
    weights.
    """
    backbone = network.backbone
    sequences = [part for part in backbone.modules() if type(part) in (*CONTAINERS, type(backbone))]
    found = [
        part for sequence in sequences for part in sequence.children()
        if not isinstance(part, CONTAINERS) and len(_list_weighted(part)) > 1
    ]  # fmt: skip
    outer = {
        id(part) for part in found for inner in found
        if part is not inner and any(inner is each for each in part.modules())
    }  # fmt: skip
    blocks = [part for part in found if id(part) not in outer]
    return blocks if len(blocks) >= LEAST else [network]


def count_compiled_layers(network: Classifier) -> int:
    """Return the number of layers with weights to compile, those of equal blocks counted once."""
    blocks = {
        (type(block), *(tuple(p.shape) for p in block.parameters())): len(_list_weighted(block))
        for block in find_blocks(network)
    }
    return sum(blocks.values())


def compile_in_place(network: Classifier, *, graphs: bool, deterministic: bool) -> None:
    """Compile ``network`` for batches of one size.

    Args:
        network: changed in place; hooks on its compiled parts are no longer called.
        graphs: whether to record CUDA graphs, which launch all kernels at once; only on CUDA.
        deterministic: whether the compiler must not time kernels that differ in rounding.
    """
    import torch._dynamo.config as limits  # slow to import

    limits.recompile_limit = max(limits.recompile_limit, LIMIT)
    options = {"deterministic": deterministic, "triton.cudagraphs": graphs}
    for block in find_blocks(network):
        block.compile(dynamic=False, options=options)


def _list_weighted(part: nn.Module) -> list[nn.Module]:
    """Return the layers with a weight matrix or kernel; biases and norms have vectors."""
    return [
        layer for layer in part.modules()
        if any(parameter.dim() > 1 for parameter in layer.parameters(recurse=False))
    ]  # fmt: skip
