"""Check that every batch can be normalised: torch refuses statistics of a single value."""

from __future__ import annotations

from functools import partial

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from convlens.config.schema import DataConfig
from convlens.core.errors import SharedError
from convlens.core.evaluation import evaluation_mode
from convlens.data.datamodule import PictureData
from convlens.training.module import ClassifierModule


def find_batch_normalised(module: ClassifierModule) -> list[str]:
    """Return the names of the layers that use batch statistics in any phase of the schedule."""
    before, names = module.phase, {}
    for phase in module.schedule.phases:
        module.enter(phase)
        layers = module.model.named_modules()
        names |= {n: None for n, part in layers if isinstance(part, _BatchNorm) and part.training}
    module.enter(before)
    return list(names)


def check_batches(module: ClassifierModule, data: PictureData, processes: int) -> None:
    """Check that every process can normalise each of its batches.

    Batch normalisation needs two values per channel. One image has only one if it is normalised
    after global pooling or where the map is a single pixel. One pass in evaluation mode finds
    those layers.

    Args:
        module: the module to be trained.
        data: the training data.
        processes: number of processes.

    Raises:
        SharedError: a process would get a batch of one image that such a layer refuses.
    """
    order = data.order(processes)
    if order.smallest // processes > 1 or not (layers := find_batch_normalised(module)):
        return
    single = _single_values(module, data.spec)
    if refused := [name for name in layers if name in single]:
        who = f"{processes} processes" if processes > 1 else "one process"
        raise SharedError(
            f"{refused[0]} cannot normalise one image ({order.count} images, batches of "
            f"{order.batch_size}, {who}); try training.batch_size="
            f"{2 if data.per_device else 2 * processes}, model.batch_norm=false or "
            f"finetune.batch_norm=eval"
        )


@torch.no_grad()
def _single_values(module: ClassifierModule, spec: DataConfig) -> set[str]:
    """Return the names of the layers that get a single value per channel from one image."""
    names: set[str] = set()

    def note(name: str, _part, inputs: tuple) -> None:
        if inputs[0].numel() == inputs[0].shape[1]:
            names.add(name)

    model = module.model
    example = next(model.parameters()).new_zeros(1, spec.channels, spec.size, spec.size)
    handles = [
        part.register_forward_pre_hook(partial(note, name))
        for name, part in model.named_modules()
        if isinstance(part, _BatchNorm)
    ]
    try:
        with evaluation_mode(model):
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return names
